"""The part of the server that callers and operators reach: models, admission, images in both directions, services."""
