"""The connection to a server: channels, retries, errors."""
