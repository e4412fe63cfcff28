"""Demo cases in `inputs/`, and their truth in `gts/`.

- `make_examples.py`: makes the demo cases (a command).
- `overlay`: draws cases, boxes and masks as one picture, as in docs/demo.png (a command).
"""
