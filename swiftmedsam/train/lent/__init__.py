"""Training on a machine that is lent for minutes and has no network.

- `package`: makes the folder to send: code, weights, a part of the corpus (a command).
- `lease`: trains on the lent machine (a command).
"""
