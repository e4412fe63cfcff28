"""How good are the masks, how long do they take: by the challenge's rules and its protocol.

`metrics` scores two label maps; `score` scores two folders and averages by modality, data set and
object size; `bootstrap` gives the intervals; `compare` tells two folders of outputs apart. The
command `swiftmedsam evaluate SEGS GTS` prints the table of the paper. `breadth`, a command too,
tells data sets that the weights were trained on from others: `datasets` says which is which,
`estimates` has the means over data sets, `saved` reads scores that were written before. `agreement`
makes cases of pictures without labels, whose truth is a teacher's. `robustness` runs the program on
cases whose boxes `prompts` has moved. `report` writes an HTML page with pictures of all cases.

`timing` times programs: each run a fresh process or container; what a further slice and a further
object cost; and cases of the shapes of the paper's Table 5, whose figures are in `published`.
"""
