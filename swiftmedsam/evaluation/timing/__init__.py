"""Seconds and memory of whole programs, case by case."""
