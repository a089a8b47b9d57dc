"""Generation of instruction data (Self-Instruct, Evol-Instruct) and pairwise judging with a language model."""
