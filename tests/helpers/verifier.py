"""The process that checks saved artifacts, forked from one that has imported the libraries: its own imports take 8 s."""

from __future__ import annotations


def fork_verifier() -> None:
    """Let the runs of this process check their artifacts in a process that is forked here; if it ends, in a fresh one."""
    from peftkit.pipeline import verify

    verify.fork_verifier()
