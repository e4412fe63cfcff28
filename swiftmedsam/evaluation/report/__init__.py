"""A page to look at cases and their masks."""
