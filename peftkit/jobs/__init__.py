"""The jobs: one module each, run by the entry point of its record in `config.jobs`."""
