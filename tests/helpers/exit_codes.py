"""The exit code of what a forked process computes."""

from __future__ import annotations

import traceback
from collections.abc import Callable


def exit_code(call: Callable[[], None]) -> int:
    """Return the code with which the interpreter would exit after a call; the traceback of an error is printed."""
    try:
        call()
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
