"""The engine without a server, peers in process, and what serving adds."""
