"""How good are the masks, how long do they take: by the challenge's rules and its protocol.

`metrics` scores two label maps; `score` scores two folders and averages by modality, data set and
object size; `bootstrap` gives the intervals; `compare` tells two folders of outputs apart.
`python -m evaluation SEGS GTS` prints the table of the paper. `robustness`, a command too, runs the
program on cases whose boxes `prompts` has moved. `report`, the third, writes a `page` with the
`pictures` of all cases.

`runtime`, the fourth, times programs: each run (`measure`) a fresh process or container, begun by
`spawn`; `growth` says what a further slice and a further object cost. `table5` makes cases of the
shapes of the paper's Table 5. `paper` prints its Tables 4 and 5 anew, beside what was `published`,
for who has the challenge's cases.
"""
