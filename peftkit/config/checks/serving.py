"""Checks of job=serve: its packages, its runs and its limits."""

import os
from importlib.util import find_spec

from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import refusal
from peftkit.config.run import RunConfig

PACKAGES = ("uvicorn", "starlette", "prometheus_client")


def serving_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting with which no server can start."""
    if run.job != "serve":
        return []
    chosen, folders = run.serve, run.runs or []
    missing = [name for name in PACKAGES if find_spec(name) is None]
    repeated = len({os.path.realpath(folder) for folder in folders}) < len(folders)
    return [
        *messages_of(
            (missing, f"job=serve needs the package {', '.join(missing)}; pip install 'peftkit[serve]'"),
            (
                run.run is not None and run.runs is not None,
                refusal("run= is a single run, runs= has several", "~run", "~runs"),
            ),
            (run.runs == [], refusal("runs= has no run", "run=DIR ~runs", verb="set")),
            (repeated, "runs= names a folder twice; name each once"),
            (not chosen.host.strip(), refusal("serve.host is empty", "serve.host=127.0.0.1")),
            (
                chosen.max_examples > chosen.max_queue,
                refusal(
                    f"serve.max_queue={chosen.max_queue} is less than the examples of one request, serve.max_examples",
                    f"serve.max_examples={chosen.max_queue}",
                ),
            ),
        )
    ]
