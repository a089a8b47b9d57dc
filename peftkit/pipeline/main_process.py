"""Decisions of the main process that the other processes of a run follow."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from peftkit.compat.processes import shared_store
from peftkit.config import UserError, error_summary
from peftkit.config.console import is_main_process, number_of_processes
from peftkit.pipeline.processes import name_of_block
from peftkit.results.locks import locked_file

POLL_SECONDS = 0.1
_WRITING: list[None] = []  # an item for each file that this process writes without the others
_DECISIONS: Counter[str] = Counter()  # by block and name; where a block fails, not equally many in each process


def follow_main_process(name: str, decide: Callable[[], Any]) -> Any:
    """Return what the main process decides, once it has decided, however long that takes.

    Args:
        name: of the decision, the same in each process.
        decide: called in the main process only; returns a value of JSON.

    Raises:
        UserError: it raised one; or, in the other processes, any error.
    """
    if number_of_processes() == 1:
        return decide()
    store = shared_store()
    name = f"peftkit/{name_of_block()}/{name}"
    key = f"{name}/{_DECISIONS[name]}"
    _DECISIONS[name] += 1
    if is_main_process():
        try:
            found = decide()
        except BaseException as error:
            store.set(key, json.dumps({"error": error_summary(error)}))
            raise
        store.set(key, json.dumps({"found": found}))
        return found
    while not store.check([key]):  # no call with a time limit: the main process may wait for another command
        time.sleep(POLL_SECONDS)
    answer = json.loads(store.get(key))
    if "error" in answer:
        raise UserError(f"process 0: {answer['error']}")
    return answer["found"]


@contextmanager
def locked_by_main_process(file: Path) -> Iterator[None]:
    """Lock a file as `locked_file` does; the other processes of a run go on once the main one has the lock."""
    with ExitStack() as stack:
        follow_main_process(f"lock {file}", partial(stack.enter_context, locked_file(file)))
        yield


def write_once(target: Path, is_written: Callable[[], bool], write: Callable[[], None]) -> None:
    """Write a file or folder that commands share, unless it is there, under its lock.

    In a block of `one_outcome` the main process writes it for the others, which write what they do not find then, as on
    a disk of their own. Outside of blocks a process waits for none that may not come here.
    """

    def ensure() -> None:
        if not is_written():
            with locked_file(target), _writing_alone():
                if not is_written():  # by the process that had the lock
                    write()

    if name_of_block() and not _WRITING:
        follow_main_process(f"write {target.name}", ensure)
    ensure()


@contextmanager
def _writing_alone() -> Iterator[None]:
    """Let what this process writes meanwhile be written without the others, which may have it."""
    _WRITING.append(None)
    try:
        yield
    finally:
        _WRITING.pop()
