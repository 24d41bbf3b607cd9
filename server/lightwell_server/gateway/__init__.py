"""What callers and operators meet: which models there are, who is let in, pictures on their two ways, the services."""
