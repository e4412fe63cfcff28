"""Training on a lent machine without network: a folder to send, and what runs in it."""
