"""Benchmarks: commands that print a table, beside a peer measured in the same run, and a line for each goal."""
