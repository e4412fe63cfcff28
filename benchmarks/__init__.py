"""Measurements of rules, speed and limits; other programs to compare with.

- `ablation/`: what single rules and quantized layers give and cost.
- `reference/`: other programs and the organisers' metrics.
- `speed/`: how fast the network is, and how fast it could be on this CPU.
- `limits/`: memory, stopped runs, two runs at the same time.
- `speed.sh`: all tables of speed that need no container.
- `table5.csv`: the runs of the table in docs/reproduction.md.
"""
