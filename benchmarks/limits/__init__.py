"""The limits of the program.

- `memory`: peak memory by shape of the case (a command).
- `stopping`: how soon a stopped run ends (a command).
- `side_by_side`: how much two runs slow each other (a command).
- `workers`: N workers of one thread against one process of N (a command).
"""
