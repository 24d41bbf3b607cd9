"""Shows many results side by side, as one picture or page."""
