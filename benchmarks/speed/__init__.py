"""How fast the network is, and how near that is to what the CPU can do."""
