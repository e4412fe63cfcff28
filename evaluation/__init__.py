"""How good are the masks: outputs against truth, by the challenge's rules.

`metrics` scores two label maps; `score` scores two folders and averages by modality, data set and
object size; `bootstrap` gives the intervals; `compare` tells two folders of outputs apart.
`python -m evaluation SEGS GTS` prints the table of the paper. `robustness`, a command too, runs the
program on cases whose boxes `prompts` has moved. `report`, the third, writes a `page` with the
`pictures` of all cases.

`table5` makes cases of the shapes of the paper's Table 5, whose seconds `published` has.
"""
