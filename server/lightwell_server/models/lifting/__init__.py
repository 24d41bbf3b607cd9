"""From a model file to a graph: the file is opened, recorded while it runs once on a sample, and the graph is
verified."""
