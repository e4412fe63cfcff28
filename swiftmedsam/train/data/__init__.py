"""Pictures to train on.

- `corpus`: reads tar shards and npz files, and draws pictures in balanced shares.
- `augment`: the changes of pictures.
- `framed`: a drawn picture, changed and framed to the input of the network.
- `prompts`: boxes to train with.
- `stream`: the batches of a run.
"""
