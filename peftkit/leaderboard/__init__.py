"""Turn results, and nothing but results, into tables."""
