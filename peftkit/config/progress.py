"""Progress of the stages of a command: a bar in a terminal, elsewhere a line every 30 seconds.

Only commands show it: calls from Python are silent. A stage that ends within two seconds shows nothing, nor does a
stage within a stage.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from peftkit.config.console import has_terminal, is_main_process, log

T = TypeVar("T")
DELAY, REFRESH_EVERY, LINE_EVERY = 2.0, 0.25, 30.0  # seconds
_IS_SHOWN: ContextVar[bool] = ContextVar("is_shown", default=False)
_ACTIVE: ContextVar[Stage | None] = ContextVar("active", default=None)


@dataclass
class Stage:
    """A part of a command, and how much of it is done.

    Args:
        total: of the units; None where it is not known, so that only the time is shown.
        note: what else is shown, such as the loss.
    """

    name: str
    total: int | None = None
    unit: str = "example"
    done: int = 0
    note: str = ""
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Return the stage as one line: what is done, the rate and the time left."""
        seconds = time.monotonic() - self.started
        note = f", {self.note}" if self.note else ""
        if not self.total or not self.done:
            return f"{self.name}: {duration(seconds)} so far{note}"
        rate, left = self.done / seconds, seconds * max(self.total - self.done, 0) / self.done
        share = f"{self.done:,} of {self.total:,} {self.unit}s ({self.done / self.total:.0%})"
        return f"{self.name}: {share}, {rate:.3g} {self.unit}s/s{note}, {duration(left)} left"


@contextmanager
def shown_progress(is_shown: bool = True) -> Iterator[None]:
    """Show the stages of this block, or none."""
    token = _IS_SHOWN.set(is_shown)
    try:
        yield
    finally:
        _IS_SHOWN.reset(token)


@contextmanager
def stage(name: str, total: int | None = None, unit: str = "example") -> Iterator[Stage]:
    """Show the progress of the block, whose code counts what is `done`."""
    current = Stage(name, total, unit)
    if not _IS_SHOWN.get() or _ACTIVE.get() is not None or not is_main_process():
        yield current
        return
    token, is_over = _ACTIVE.set(current), threading.Event()
    show = _show_bar if has_terminal() else _log_lines
    shower = threading.Thread(target=show, args=(current, is_over), daemon=True)
    shower.start()
    try:
        yield current
    finally:
        is_over.set()
        shower.join()
        _ACTIVE.reset(token)


def counted(name: str, items: Sequence[T], unit: str) -> Iterator[T]:
    """Yield the items, and show how many are done."""
    with stage(name, len(items), unit) as current:
        for item in items:
            yield item
            current.done += 1


def advance(count: int) -> None:
    """Count what is done of the stage that is shown, if any."""
    if (current := _ACTIVE.get()) is not None:
        current.done += count


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as "2 min 30 s"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _show_bar(current: Stage, is_over: threading.Event) -> None:
    """Draw the bar on the last line of the terminal until the stage is over, then erase it."""
    if is_over.wait(DELAY):
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    width, height = shutil.get_terminal_size()  # tqdm shows nothing in a terminal that does not know its size
    plain = "   {desc} {elapsed}"
    counted = "   {desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    with tqdm(
        desc=current.name, total=current.total, unit=current.unit, leave=False, delay=1e-3,
        ncols=width, nrows=height, bar_format=counted if current.total else plain, file=sys.stderr,
    ) as bar:  # fmt: skip
        bar.start_t -= DELAY
        while not is_over.wait(REFRESH_EVERY):
            if current.total and bar.total != current.total:
                bar.total, bar.bar_format = current.total, counted
            bar.n = current.done
            bar.set_postfix_str(current.note, refresh=False)
            bar.refresh()


def _log_lines(current: Stage, is_over: threading.Event) -> None:
    while not is_over.wait(LINE_EVERY):
        log(f"   {current.line()}")
