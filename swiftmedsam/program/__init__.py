"""The program: options, the loop over cases, signals, and what is written to the terminal."""
