"""A request on its way: who asks, what is admitted, and what answers it."""
