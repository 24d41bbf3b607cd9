"""Many answers side by side, as one picture or page."""
