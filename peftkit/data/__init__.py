"""Data: sources, examples, formats, collation and generated offline data."""
