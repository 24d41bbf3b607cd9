"""The methods: one file each, named like its field in the request's oneof. A file holds the function of that name
and, beside it, `applies(facts)` (why it cannot be asked of a model, or None) and `defaults(facts, given)` (parameters
that depend on the model) where it needs them."""
