"""Random commands, damaged run folders and random data files, and what must hold for each of them."""
