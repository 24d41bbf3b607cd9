"""What is added to the protos, behind which words."""

MESSAGES = """
message Prior {
  // The value of all pixels, 0 to 1. Unset: 0.5.
  optional float value = 1;
}

// What a stylizer makes.
message Stylized {}

// The gradient of one model less that of another.
message Contrasted {
  // The other model. Required.
  optional string other = 1;
}

// The pixels of the largest gradients.
message Peaks {
  // How many, 1 to 100. Unset: 5.
  optional int32 count = 1;
}
"""
EXPLAIN = """
    // These are added by a test.
    Prior prior = 901;
    Stylized stylized = 902;
    Contrasted contrasted = 903;
    Peaks peaks = 904;
"""
HOPS = """
message Hops {
  // How many pictures are looked at, 1 to 10,000. Unset: 20.
  optional int32 queries = 1;
  // Whether it ends once the score is raised. Unset: false.
  optional bool until_raised = 2;
}
"""
SYNTHESIZE = """
    // A random walk.
    Hops hops = 905;
"""
COUNT = """
// How far to count.
message CountRequest {
  // The model's name.
  string model = 1;
  // Its version.
  string version = 2;
  // The last number, from 1.
  int32 to = 3;
  // Seconds between two numbers.
  double seconds = 4;
}

// A number.
message CountResponse {
  // From 1.
  int32 number = 1;
  // How many layers the model has.
  int32 layers = 2;
}
"""
RPC = """
  // Counts.
  rpc Count(CountRequest) returns (stream CountResponse);
"""
PROTOS = "protos/lightwell/v1"
INSERTS = (
    (f"{PROTOS}/explain.proto", 'import "lightwell/v1/types.proto";\n', MESSAGES),
    (f"{PROTOS}/explain.proto", "    Predictions predictions = 120;\n", EXPLAIN),
    (f"{PROTOS}/synthesize.proto", 'import "lightwell/v1/types.proto";\n', HOPS),
    (f"{PROTOS}/synthesize.proto", "    StyleTransfer style_transfer = 211;\n", SYNTHESIZE),
    (f"{PROTOS}/models.proto", 'import "lightwell/v1/types.proto";\n', COUNT),
    (f"{PROTOS}/explainer.proto", "  rpc GetFilters(GetFiltersRequest) returns (GetFiltersResponse);\n", RPC),
)
METHODS = ("prior", "stylized", "contrasted", "peaks", "hops")
