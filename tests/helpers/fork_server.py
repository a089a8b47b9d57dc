"""Commands of peftkit, each in a child forked from one process that has imported the libraries once.

A command costs what it does instead of 11 s of imports. `python -m helpers.fork_server` is the process; a `ForkServer`
starts it and sends it commands.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.caches import keep_config_files, keep_generated_data
from helpers.exit_codes import exit_code

TESTS = Path(__file__).resolve().parents[1]
LIMIT = 60.0  # seconds for a command
MEMORY = 16 * 2**30  # bytes of address space
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


@dataclass(frozen=True)
class Finished:
    """How a command ended. `code` is -9 where it ran past the limit."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class ForkServer:
    """Run commands, one after the other; `folder` holds HOME of all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir(parents=True)
        environment = {**os.environ, **ENVIRONMENT, "HOME": str(home)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), environment.get("PYTHONPATH"))))
        for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "PEFTKIT_CACHE"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.fork_server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._read()

    def run(
        self,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        limit: float = LIMIT,
        entry: str = "peftkit.cli:main",
    ) -> Finished:
        """Run `peftkit ARGUMENTS` in the folder `cwd`, or another function "module:name" of a list of arguments."""
        request = {
            "arguments": list(arguments), "cwd": str(cwd), "environment": dict(environment or {}), "limit": limit, "entry": entry,
            "stdout": str(self.folder / "stdout"), "stderr": str(self.folder / "stderr"),
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = self._read()
        stdout, stderr = (
            Path(request[name]).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr")
        )
        return Finished(reply["code"], stdout, stderr, reply["seconds"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def serve() -> None:
    """Import the libraries, then run the commands that arrive on stdin as lines of JSON."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    gc.disable()
    _import_libraries()
    gc.collect()
    gc.enable()
    gc.freeze()  # a collection in a child must not copy the pages of what the parent has imported
    print(json.dumps({"ready": True}), file=replies, flush=True)
    while line := requests.readline():
        request = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _run(request)
        code = _wait(child, request["limit"])
        reply = {"code": code, "seconds": time.monotonic() - started}
        print(json.dumps(reply), file=replies, flush=True)


def _import_libraries() -> None:
    import pkgutil

    import datasets  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import trl  # noqa: F401
    from hydra.core.plugins import Plugins
    from transformers import (  # noqa: F401  loaded on access
        AutoModel,
        AutoModelForSequenceClassification,
        BertForSequenceClassification,
        BertTokenizerFast,
        GPT2LMHeadModel,
        GPT2TokenizerFast,
        RobertaForSequenceClassification,
        T5ForConditionalGeneration,
        T5TokenizerFast,
        Trainer,
    )

    import peftkit

    Plugins.instance()  # looks for plugins in all packages
    for module in pkgutil.walk_packages(peftkit.__path__, "peftkit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    _fill_caches()


def _fill_caches() -> None:
    """Do once what can be kept: Hydra's grammar and files, the shipped config, data, the table of renamed weights."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from peftkit.cli.compose import open_composer
    from peftkit.cli.validate import command_errors
    from peftkit.data import miniglue

    keep_config_files()
    keep_generated_data()
    miniglue.miniglue("mrpc")
    get_checkpoint_conversion_mapping("bert")
    with open_composer(None) as composer:
        command_errors(["task=mrpc", "method=lora"], composer, None, False)


def _run(request: dict[str, Any]) -> None:
    """Run one command in this child and exit as the interpreter does."""
    code = 1
    try:
        code = exit_code(lambda: _run_command(request))
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run_command(request: dict[str, Any]) -> None:
    from peftkit.pipeline.verify import fork_verifier

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    module, _, name = request["entry"].partition(":")
    if name == "main":
        fork_verifier()  # before the command, instead of a fresh process that imports all again
    getattr(importlib.import_module(module), name)(request["arguments"])


def _wait(child: int, limit: float) -> int:
    """Return the exit code of the child; past the limit it is killed with all that it started."""
    descriptor = os.pidfd_open(child)
    if not select.select([descriptor], [], [], limit)[0]:
        os.killpg(child, signal.SIGKILL)
    os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    serve()
