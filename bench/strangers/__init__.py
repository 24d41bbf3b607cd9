"""Those who behave badly around requests: the parts of `bench.hostile`."""
