"""Commands of peftkit at the same time, each in a child of a child of the fork server."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.fork_server import ForkServer


@dataclass(frozen=True)
class Ended:
    """How one of the commands ended."""

    code: int
    stderr: str


def run_together(
    server: ForkServer, cwd: Path, *commands: tuple[float, Sequence[str]], limit: float = 120
) -> list[Ended]:
    """Run commands, each a number of seconds after this call, and return how they ended."""
    done = server.run([json.dumps(commands), str(cwd)], cwd, limit=limit, entry="helpers.simultaneous:main")
    assert done.code == 0, done.output
    codes = json.loads(done.stdout.splitlines()[-1])
    return [Ended(code, (cwd / f"{number}.err").read_text()) for number, code in enumerate(codes)]


def main(arguments: Sequence[str]) -> None:
    """Run the commands of a list of (seconds, arguments) in JSON; print their exit codes."""
    children = []
    for number, (seconds, command) in enumerate(json.loads(arguments[0])):
        child = os.fork()
        if child == 0:
            _run(Path(arguments[1]) / f"{number}.err", seconds, command)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


def _run(stderr: Path, seconds: float, command: Sequence[str]) -> None:
    from peftkit.cli import main
    from peftkit.pipeline.verify import fork_verifier

    code = 1
    try:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        fork_verifier()
        time.sleep(seconds)
        main(command)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
