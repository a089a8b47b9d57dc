"""OpenMP's idle threads: they spin while a process has the cores to itself, and sleep while others need them.

libgomp's threads wait for up to 300,000 iterations of a loop before they sleep. Small operations are faster for it, but
two trainings on the same cores take three times as long as one. While a process has more OpenMP threads than cores,
libgomp waits for 100 iterations only (its manual, GOMP_SPINCOUNT); so threads that only sleep switch spinning off as
long as they exist.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # how OpenMP's idle threads wait, where the user decides it
INTERVAL, QUIET = 0.2, 2.0  # seconds between two looks at the cores, and without another process until threads spin
SHARE = 0.25  # of a core, which another process uses at least
PARALLEL = 100_000  # elements, of which an operation uses all threads


class _Sleepers:
    """Threads of OpenMP that only sleep."""

    def __init__(self) -> None:
        self.end, self.thread = threading.Event(), threading.Thread(target=self._sleep, daemon=True)
        self.thread.start()

    def _sleep(self) -> None:
        torch.ones(PARALLEL).add_(1)  # every thread of Python that computes has OpenMP threads of its own
        self.end.wait()

    def stop(self) -> None:
        self.end.set()
        self.thread.join()


@contextmanager
def shared_cores() -> Iterator[None]:
    """Switch spinning off while other processes use this one's cores, unless the user decided how threads wait.

    A thread reads /proc/stat, so that nothing changes on systems other than Linux.
    """
    if sys.platform != "linux" or torch.get_num_threads() == 1 or any(name in os.environ for name in SETTINGS):
        yield
        return
    end = threading.Event()
    thread = threading.Thread(target=_watch, args=(end,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _watch(end: threading.Event) -> None:
    sleepers, last_busy = None, float("-inf")
    before = _seconds()
    while not end.wait(INTERVAL):
        now = _seconds()
        if now[1] - before[1] - (now[2] - before[2]) > SHARE * (now[0] - before[0]):
            last_busy = now[0]
        is_busy, before = now[0] - last_busy < QUIET, now
        if is_busy and sleepers is None:
            sleepers = _Sleepers()
        elif not is_busy and sleepers is not None:
            sleepers.stop()
            sleepers = None
    if sleepers is not None:
        sleepers.stop()


def _seconds() -> tuple[float, float, float]:
    """Return seconds of the clock, those in which this process's cores worked, and those in which it worked itself."""
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
    ticks = sum(int(row[column]) for row in rows if row[0] in cores for column in (1, 2, 3, 6, 7, 8))  # man 5 proc
    return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()
