"""What is measured, and against what: the organisers' rules in torch and metrics, parity, speed."""
