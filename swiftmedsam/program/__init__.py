"""The program: its options, the loop over cases, signals, and the output to the terminal."""
