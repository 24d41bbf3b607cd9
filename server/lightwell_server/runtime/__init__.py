"""One device: prepares requests whose images are pixels, runs them in the engine, and writes the responses."""
