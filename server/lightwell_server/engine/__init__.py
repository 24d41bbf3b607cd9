"""Runs methods: many jobs share one device, a step at a time."""
