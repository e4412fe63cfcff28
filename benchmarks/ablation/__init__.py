"""What single rules and quantized layers give and cost.

- `modes`: DSC and seconds of several settings (a command).
- `layers`: DSC and seconds of INT8, by groups of layers (a command).
"""
