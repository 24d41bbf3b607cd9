"""Protobuf messages to tensors and back: the only room that knows bytes. It knows no model."""
