"""One device: requests whose images are pixels are understood, run by the engine, and answered in messages."""
