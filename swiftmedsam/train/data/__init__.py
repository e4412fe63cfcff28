"""Training pictures: read, changed as a scanner or a user could have, and drawn in batches."""
