"""The formats of job=export: one module each, named by its record in config/export_formats.py."""
