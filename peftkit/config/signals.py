"""Signals that interrupt a command, so that the processes that it started end with it."""

import signal
from typing import Any


def interrupt_on_sigterm(then: Any = signal.SIG_DFL) -> None:
    """Raise KeyboardInterrupt at the next SIGTERM; `then` handles a second one: by default it ends the process."""

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGTERM, then)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
