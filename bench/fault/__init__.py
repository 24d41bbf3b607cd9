"""Proofs that nothing is lost: the parts of `bench.faults`."""
