"""Run a command; print its seconds, peak memory in bytes and exit status in one line.

    python -I -S spawn.py LOG COMMAND [ARGUMENT ...]

LOG gets the output of the command. This is a small program of its own, because Linux counts the
memory of the starting process in the peak of the started process.
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
    _, status, usage = os.wait4(process, 0)  # includes children of the command that it waited for
    seconds = time.perf_counter() - began
    print(seconds, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
