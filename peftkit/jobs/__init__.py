"""The jobs: one module a verb, run by the entry point of its record in `config.jobs`."""
