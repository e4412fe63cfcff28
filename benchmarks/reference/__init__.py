"""Other programs and rules to compare with."""
