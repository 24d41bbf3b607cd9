"""Pictures as they are decoded, and pictures of what methods found."""
