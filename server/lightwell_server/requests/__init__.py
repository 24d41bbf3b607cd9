"""Requests between the gateway and a device: who calls, what is admitted, and what runs it."""
