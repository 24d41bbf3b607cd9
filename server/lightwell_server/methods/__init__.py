"""The methods: one file each, named like its field in the request's oneof.

A file holds the generator function of that name. Where the method needs them, it also has:

- `applies(facts)`: why the method does not apply to a model, or None.
- `defaults(facts, given)`: default values of parameters that depend on the model.
- `reason(facts)`: why its default layers are chosen.
- `needs`: a `Needs`.

All functions take some of these arguments. Floating tensors of a result have the dtype of `image`.

- `image`: [1, 3, H, W], float32 or float64, in [0, 1].
- `target`: the scalar that is explained or attacked.
- `facts`: what is known of the model.
- `rng`: the request's own random generator.
"""
