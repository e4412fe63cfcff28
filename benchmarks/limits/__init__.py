"""Memory, stopping, and programs side by side."""
