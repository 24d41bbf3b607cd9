"""How a server is reached: channels, retries, errors."""
