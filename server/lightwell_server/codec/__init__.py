"""Converts protobuf messages to tensors and back. It is the only package that handles bytes, and does not depend on
models."""
