"""What is measured, and against what: the organisers' rules in torch, parity with them, speed."""
