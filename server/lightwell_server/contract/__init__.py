"""The vocabulary of methods: what they ask, are answered, and return."""
