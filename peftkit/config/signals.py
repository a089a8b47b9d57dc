"""Signals that interrupt a command: SIGINT, SIGTERM and SIGHUP. One that is ignored, as under nohup, stays ignored.

The first one raises `Interrupted`, which within `deferred` waits for the end of a step. The second one is not deferred.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from peftkit.config.console import number_of_processes

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Interrupted(KeyboardInterrupt):
    """An interrupt by the signal of this number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.number).name}"


def exit_code(error: BaseException) -> int:
    """Return the exit code of an interrupt as shells count it: 128 plus the signal's number."""
    return 128 + (error.number if isinstance(error, Interrupted) else int(signal.SIGINT))


@dataclass
class _State:
    process: int = 0  # that handles signals
    received: int = 0  # the number of the first one
    is_deferred: bool = False
    repeats: bool = True


_STATE = _State()


@contextmanager
def interruptible(repeats: bool = True, replaces: bool = True) -> Iterator[None]:
    """Handle the signals in this block, and as before it afterwards; nothing in a thread other than the main one.

    Args:
        repeats: whether a second signal interrupts too. It does not under torchrun, which sends its own after that of a
            terminal and kills processes that do not end.
        replaces: whether handlers of the caller's own are replaced too.
    """
    if _STATE.process == os.getpid() or threading.current_thread() is not threading.main_thread():
        yield
        return
    _STATE.process, _STATE.received, _STATE.repeats = os.getpid(), 0, repeats and number_of_processes() == 1
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, old in before.items() if old in DEFAULTS or (replaces and old != signal.SIG_IGN)]
    try:
        for number in ours:
            signal.signal(number, _handle)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        _STATE.process = 0


@contextmanager
def on_interrupt(react: Callable[[], None]) -> Iterator[None]:
    """Call a function at each SIGINT in this block, in place of ending the command."""
    before = signal.signal(signal.SIGINT, lambda *_: react())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Let this block end by itself after a signal, which it finds out by `pending`; then raise `Interrupted`.

    An error of the block after a signal counts as its effect: processes that take part in the block may have got it
    too.
    """
    with ExitStack() as stack:
        stack.enter_context(interruptible(replaces=False))
        if pending():
            raise Interrupted(pending())
        _STATE.is_deferred = True
        try:
            yield
        except Exception as error:
            if pending():
                raise Interrupted(pending()) from error
            raise
        finally:
            _STATE.is_deferred = False
        if pending():
            raise Interrupted(pending())


def pending() -> int:
    """Return the number of the first signal that this process received; 0 without one."""
    return _STATE.received if _STATE.process == os.getpid() else 0


def ignore_signals() -> None:
    """Ignore the signals in a process that ends with the one that started it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _handle(number: int, _: Any) -> None:
    if _STATE.process != os.getpid():  # forked by a library, such as a data loader, and ended by it
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    is_first, _STATE.received = not _STATE.received, _STATE.received or number
    if is_first and _STATE.is_deferred:
        if _STATE.repeats:
            name = signal.Signals(number).name
            # print() fails where the signal interrupted another one
            os.write(2, f"peftkit: {name}: a checkpoint is written after this step; again to stop at once\n".encode())
        return
    if not is_first:
        if not _STATE.repeats:
            return
        for each in SIGNALS:
            if signal.getsignal(each) == _handle:
                signal.signal(each, signal.SIG_DFL)  # a third one ends the process wherever it is
    raise Interrupted(_STATE.received)
