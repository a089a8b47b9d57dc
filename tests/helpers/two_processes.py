"""Two processes that find each other as under torchrun: forked ones, which cost what they do, and torchrun's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from helpers.exit_codes import exit_code

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def torchrun(
    *arguments: str, cwd: Path = ROOT, processes: int = 2, limit: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Start a script, or with -m a module, in processes of torchrun; one process has no torchrun."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=limit,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), **environment},
    )  # fmt: skip


def run_two(function: Callable[[int], None], limit: float = 300) -> list[int]:
    """Call a function with each rank in a process of its own; return the exit codes, 0 where it raised nothing.

    Where one ends with another code, the other gets SIGTERM, as from torchrun. After `limit` seconds both are killed,
    which is code -9.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = {}
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            os.environ.update({**names, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            _call(function, rank)
        children[child] = rank
    codes, end = [0, 0], time.monotonic() + limit
    while children:
        time.sleep(0.05)
        for child in children if time.monotonic() > end else ():
            os.kill(child, signal.SIGKILL)
        for child in [*children]:  # no others of this process
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[children.pop(child)] = code = os.waitstatus_to_exitcode(status)
                for other in children if code else ():
                    os.kill(other, signal.SIGTERM)
    return codes


def _call(function: Callable[[int], None], rank: int) -> None:
    code = 1
    try:
        code = exit_code(lambda: function(rank))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has ended
        time.sleep(0.5 * (rank == 0))  # without torchrun, process 0 has the store
        os._exit(code)


def main(arguments: list[str]) -> None:
    """Run a command of peftkit in two processes: a function for `ForkServer.run`."""
    _run_command(arguments, lambda: _start(arguments))


def record(arguments: list[str]) -> None:
    """Run a command as `main` does, while process 0 records images as `crash_images.record` does."""
    from helpers import crash_images

    _run_command(arguments[2:], lambda: crash_images.record(arguments))


def _run_command(command: list[str], first: Callable[[], None]) -> None:
    codes = run_two(lambda rank: _start(command) if rank else first())
    sys.exit(codes[0] or codes[1])


def _start(command: list[str]) -> None:
    from peftkit.cli import main
    from peftkit.pipeline.verify import fork_verifier

    fork_verifier()  # a fresh process would import all again
    main(command)
