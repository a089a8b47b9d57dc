"""The process that checks saved artifacts, forked from one that has imported the libraries: its own imports take 8 s."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from types import SimpleNamespace
from typing import Any


def fork_verifier() -> None:
    """Let the runs of this process check their artifacts in a process that is forked here; if it ends, in a fresh one."""
    from peftkit.pipeline import verify

    (requests, to_verifier), (from_verifier, responses) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(requests, 0)
        os.dup2(responses, 1)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        verify.main()
        os._exit(0)
    os.close(requests)
    os.close(responses)
    process = SimpleNamespace(
        stdin=os.fdopen(to_verifier, "w"),
        stdout=os.fdopen(from_verifier),
        wait=lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]),
    )
    start: Any = verify._verifier_process.__wrapped__
    forked = iter([process])
    verify._verifier_process = lru_cache(lambda: next(forked, None) or start())  # type: ignore[assignment]
