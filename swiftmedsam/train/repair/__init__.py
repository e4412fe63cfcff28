"""Short trainings of single parts of a smaller network, on features of the teacher.

- `initialise`: copies the weights of the teacher that fit.
- `features`: caches features of the teacher.
- `blockwise`: trains single stages of the encoder.
- `decoder`: trains the decoder.
- `one_cycle`: the training loop that `blockwise` and `decoder` share.
"""
