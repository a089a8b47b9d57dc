"""Console output of one or several processes: messages on stderr, only from the main process."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ASSUMPTIONS: dict[str, bool] = {}  # whether each is logged
WAITING: dict[str, None] = {}  # assumptions that are logged with the next message only
_SENDERS: list[Callable[[str], None]] = []  # one at most, of a process whose lines another one writes
_AS_RECORDS: ContextVar[bool] = ContextVar("as_records", default=False)


def is_main_process() -> bool:
    """Return whether this process is the one that writes, under torchrun or accelerate launch."""
    return int(os.environ.get("RANK", "0")) == 0


def number_of_processes() -> int:
    """Return how many processes train a run together, as under torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def assume(text: str, waits: bool = False) -> None:
    """Record what was assumed about data; it is logged once, with the next message, and not if an error is next.

    One that waits is not logged before that, since a model may still refuse the data.
    """
    if waits:
        WAITING[text] = None
    else:
        ASSUMPTIONS.setdefault(text, False)


def log_assumptions(waiting: bool = True) -> None:
    """Log the assumptions that are not logged yet, among them those that wait."""
    if waiting:
        ASSUMPTIONS.update({text: False for text in WAITING if text not in ASSUMPTIONS})
        WAITING.clear()
    for text in [text for text, is_logged in ASSUMPTIONS.items() if not is_logged]:
        ASSUMPTIONS[text] = True
        _write(text)


def log(text: str) -> None:
    """Print a line to stderr, once for all processes; stdout is for tables and predictions.

    Calls from Python use the logger `peftkit` instead, and warnings for lines that start with !!.
    """
    log_assumptions()
    _write(text)


def _write(text: str) -> None:
    if not is_main_process():
        return
    if _SENDERS:
        _SENDERS[0](text)
    elif _AS_RECORDS.get():
        level = logging.WARNING if text.startswith("!!") else logging.INFO
        logging.getLogger("peftkit").log(level, text.removeprefix("!!").strip())
    elif "tqdm" in sys.modules and sys.stderr.isatty():
        sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)  # above a bar
    else:
        print(text, file=sys.stderr, flush=True)


def send_lines(send: Callable[[str], None]) -> None:
    """Send the lines of this process to another one, which writes them."""
    _SENDERS[:] = [send]


def has_terminal() -> bool:
    """Return whether this process writes its lines to a terminal."""
    return not _SENDERS and sys.stderr.isatty()


@contextmanager
def log_records() -> Iterator[None]:
    """Send messages to Python's logging, under the name peftkit, and not to stderr."""
    token = _AS_RECORDS.set(True)
    try:
        yield
    finally:
        _AS_RECORDS.reset(token)
