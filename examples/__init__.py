"""Demo cases: how they were made, and a sheet of pictures of what came out."""
