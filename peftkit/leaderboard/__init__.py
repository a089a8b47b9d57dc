"""Leaderboards: recorded runs compared with tests over seeds and examples, as tables, page and plots."""
