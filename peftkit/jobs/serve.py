"""Predictions of finished runs over HTTP."""

import signal

from peftkit.config import RunConfig
from peftkit.config.console import log
from peftkit.pipeline.serving.app import Service
from peftkit.pipeline.serving.runs import load_runs
from peftkit.pipeline.serving.server import open_socket, serve_until_stopped


def serve(config: RunConfig) -> None:
    """Answer requests until a signal; then answer what was taken, and exit with 128 plus the signal's number.

    Raises:
        UserError: a run cannot be loaded, or the address cannot be opened.
    """
    with open_socket(config.serve) as opened:
        size = int(config.train.get("per_device_eval_batch_size") or 64)
        service = Service(load_runs(config), config.serve, size)
        number = serve_until_stopped(service, opened)
    log(f"stopped by {signal.Signals(number).name}, {service.answered} requests were answered")
    raise SystemExit(128 + number)
