"""How fast the network is, and how fast it could be on this CPU.

- `latency`: time of encoder and decoder by precision (a command).
- `roofline`: each step of the encoder beside the limits of the CPU (a command).
- `flops`: FLOP of each variant (a command).
- `work`: FLOP of an OpenVINO model, by operation.
"""
