"""What depends on the machine that trains.

- `lean`: the same network with fewer passes over memory, under autocast.
- `memory`: the process keeps freed memory.
- `precision`: bfloat16 where the processor has it.
- `without_opencv`: what training needs of OpenCV, for a machine that has none.
"""
