"""One outcome for all processes of a run, as under torchrun: an error of one ends it in all, with its reason."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from peftkit.compat import processes
from peftkit.config import UserError, error_summary
from peftkit.config.console import is_main_process, number_of_processes
from peftkit.config.signals import Interrupted

POLL = 0.2  # seconds between two looks at what the others do
EJECTION = 20.0  # seconds that a process has to leave a block that has failed elsewhere
LOST = ("Connection closed by peer", "Connection reset by peer", "Socket closed", "Broken pipe")
PATIENCE = 3.0  # seconds that the reason of a process that ended may take
_BLOCKS: list["_Block"] = []  # that are open, the outermost one first
_OUTERMOST: list[None] = []  # an item for each outermost block so far


class ProcessError(RuntimeError):
    """Another process of this run failed; the message has its reason."""


class _Ejected(BaseException):
    """Raised where a block failed in another process."""


@contextmanager
def one_outcome(record: Callable[[BaseException], None] | None = None) -> Iterator[None]:
    """End this block in all processes of a run as it ends in the first that fails; all must enter it in the same order.

    A process whose operations wait for one that failed is freed. One that cannot leave within 20 seconds is ended.

    Args:
        record: called with the error before that, if this process is the main one.

    Raises:
        UserError, Interrupted, ProcessError: as the error in the process that failed first.
    """
    if number_of_processes() == 1:
        yield
        return
    block = _Block(record)
    _BLOCKS.append(block)
    error: BaseException | None = None
    try:
        block.enter()
        yield
    except BaseException as caught:
        error = caught
    while True:
        try:
            block.close()
            break
        except _Ejected as late:  # raised here, since the main thread waited in an operation until now
            error = error or late
    try:
        block.leave(error)
    finally:
        _BLOCKS.remove(block)


class _Block:
    def __init__(self, record: Callable[[BaseException], None] | None) -> None:
        self.record, self.outer, self.children = record, [*_BLOCKS], 0
        self.name = _name_of_next()
        self.store, self.lock, self.is_over = processes.shared_store(), threading.Lock(), threading.Event()
        self.rank, self.size = int(os.environ["RANK"]), number_of_processes()

    def enter(self) -> None:
        """Wait until all processes are here, and connect them if they are not."""
        threading.Thread(target=self._watch, daemon=True).start()
        self._sign("entered")
        if not self._all("entered"):
            raise _Ejected
        processes.connect(self.name)

    def close(self) -> None:
        """Let no error be raised in this process any more where another one fails."""
        with self.lock:
            self.is_over.set()

    def leave(self, error: BaseException | None) -> None:
        """Wait for the others, and raise the error that was first in any process."""
        if error is not None:
            self._post(error)
        self._sign("left")
        self._all("left")
        failure = self.failure()
        if failure is not None:
            processes.disconnect()
        failure = failure or self._outer_failure()
        if failure is None:
            if error is not None:
                raise error
        elif error is not None and failure["rank"] == self.rank:
            raise error
        else:
            raise _as_error(failure) from error

    def failure(self) -> dict[str, Any] | None:
        """Return the first error in any process."""
        key = f"{self.name}/error"
        return json.loads(self.store.get(key)) if self.store.check([key]) else None  # type: ignore[no-any-return]

    def _outer_failure(self) -> dict[str, Any] | None:
        return next(filter(None, (block.failure() for block in self.outer)), None)

    def _post(self, error: BaseException) -> None:
        """Make an error known, unless it is the effect of one in another process."""
        is_loss = isinstance(error, RuntimeError) and any(text in str(error) for text in LOST)
        end = time.monotonic() + (PATIENCE if is_loss else 0.0)
        while self.failure() is None and time.monotonic() < end:
            time.sleep(POLL)
        if self.failure() is None and self._outer_failure() is None:
            text = "another process of this run ended without a reason, as where memory runs out" if is_loss else None
            record = json.dumps(_as_record(error, self.rank, text))
            self.store.compare_set(f"{self.name}/error", "", record)

    def _sign(self, what: str) -> None:
        self.store.set(f"{self.name}/{what}/{self.rank}", "1")

    def _all(self, what: str) -> bool:
        """Wait until all processes have entered or left the block; False where one has failed and that takes long."""
        keys, end = [f"{self.name}/{what}/{rank}" for rank in range(self.size)], math.inf
        while not self.store.check(keys):
            if self._outer_failure() is not None or time.monotonic() > end:
                return False
            if end == math.inf and self.failure() is not None:
                end = time.monotonic() + (EJECTION if what == "left" else 0.0)
            time.sleep(POLL)
        return True

    def _watch(self) -> None:
        """Wait for a failure elsewhere, and make the main thread leave the block."""
        failure = None
        with suppress(RuntimeError):  # the process that hosts the store has ended
            while failure is None and not self.is_over.wait(POLL):
                failure = self.failure()
        if failure is None or failure["rank"] == self.rank:
            return
        with self.lock:
            if self.is_over.is_set():
                return
            text = str(_as_error(failure))
            processes.raise_in_main_thread(type("_Ejected", (_Ejected,), {"__str__": lambda _: text}))
        processes.end_operations()
        if not self.is_over.wait(EJECTION):
            if is_main_process() and self.record is not None:
                self.record(_as_error(failure))
            os._exit(1)


def name_of_block() -> str:
    """Return the name of the innermost block, the same in all processes; empty outside of blocks."""
    return _BLOCKS[-1].name if _BLOCKS else ""


def _name_of_next() -> str:
    """Return the name of a block, which is the same in all processes: its position in the one around it."""
    if not _BLOCKS:
        _OUTERMOST.append(None)
        return f"block-{len(_OUTERMOST)}"
    _BLOCKS[-1].children += 1
    return f"{_BLOCKS[-1].name}.{_BLOCKS[-1].children}"


def _as_record(error: BaseException, rank: int, text: str | None) -> dict[str, Any]:
    kind = "user" if isinstance(error, UserError) else "signal" if isinstance(error, KeyboardInterrupt) else "error"
    number = getattr(error, "number", int(signal.SIGINT))
    return {"rank": rank, "kind": kind, "text": text or error_summary(error), "number": number}


def _as_error(failure: dict[str, Any]) -> BaseException:
    if failure["kind"] == "signal":
        return Interrupted(failure["number"])
    if failure["kind"] == "user":
        return UserError(failure["text"])
    return ProcessError(f"process {failure['rank']}: {failure['text']}")
