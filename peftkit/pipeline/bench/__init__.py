"""job=bench: the same training by plain scripts and by peftkit, each measured in a process of its own."""
