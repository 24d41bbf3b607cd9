"""Runs methods: many runs share one device, a step at a time."""
