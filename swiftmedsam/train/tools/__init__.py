"""Commands around a training run.

- `cases`: writes training pictures as cases of the program, to calibrate INT8.
- `curves`: draws the losses of a run.
- `mean`: averages the weights of several checkpoints.
- `measure`: scores checkpoints quickly, while they train.
- `taper`: measures how large objects are in each slice of their 3D box.
"""
