"""A server that answers requests with the predictions of runs."""
