"""What a data set looks like before anything trains: columns, labels, duplicates, lengths, tokens and scripts."""
