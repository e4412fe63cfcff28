"""Boxes as people write them: files and tables, and which scan each one is for."""
