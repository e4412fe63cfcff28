"""Reads files and tables of boxes, and finds the scan that each box belongs to."""
