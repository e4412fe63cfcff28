"""Seconds and memory of programs, case by case.

- `runtime`: times this program and others, in a fresh process or container for each case (a
  command).
- `growth`: how the time grows with slices and objects (a command).
- `table5`: makes cases with the shapes of the paper's Table 5 (a command).
- `measure`: one run of a program on one case.
- `spawn`: starts a command and measures its memory.
"""
