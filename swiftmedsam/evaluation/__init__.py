"""Score masks and time programs, by the rules and the protocol of the challenge.

Commands (`python -m swiftmedsam.evaluation.NAME`):

- `__main__`: scores outputs by modality, as in the paper; also `swiftmedsam evaluate`.
- `breadth`: scores by data set, apart for those that the weights were trained on.
- `agreement`: makes cases of pictures without labels; their truth is the masks of a teacher.
- `robustness`: scores outputs for boxes that are drawn worse.
- `slices`: makes an image of each slice of volumes, to score the network without the volume.
- `report/`: an HTML page and a sheet with pictures of cases.
- `timing/`: seconds and memory of programs.

What they use:

- `dice`: DSC of two masks.
- `metrics`: DSC and NSD of two masks or label maps.
- `score`: scores of two folders, and means by modality, data set and object size.
- `bootstrap`: confidence intervals.
- `compare`: the difference of two folders of outputs.
- `estimates`: means over data sets, with intervals.
- `datasets`: the data set of each case, and whether the weights were trained on it.
- `saved`: reads scores that `__main__` has written.
- `prompts`: cases with moved boxes.
- `published`: the paper's Tables 4 and 5.
- `console`: arguments, progress, tables and colours of the commands.
"""
