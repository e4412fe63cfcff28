"""Run a command and print its seconds, its peak memory in bytes and its exit status, in one line.

`python -I -S spawn.py LOG COMMAND [ARGUMENT ...]`: a small program of its own, since Linux counts
what the starting process holds towards the peak of the process it starts. Output goes to LOG.
"""

import os
import sys
import time


def main() -> None:
    """Run the command of the command line."""
    log, *command = sys.argv[1:]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o666),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    began = time.perf_counter()
    process = os.posix_spawnp(command[0], command, os.environ, file_actions=files)
    _, status, usage = os.wait4(process, 0)  # of its children, too, if it waited for them
    seconds = time.perf_counter() - began
    print(seconds, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
