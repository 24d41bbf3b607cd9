"""Files that are lifted, and mistakes that are made with them."""
