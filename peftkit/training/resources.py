"""Seconds and peak memory of a block of code, or of a training run and its resumptions."""

from __future__ import annotations

import ctypes
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

FILE = "resources.json"


class ResourceTracker(TrainerCallback):
    """Write the seconds and the peak memory until a checkpoint into its folder."""

    def __init__(self, last: Path | None, peak: Callable[[], int | None]) -> None:
        self.started, self.peak = time.perf_counter(), peak
        file = None if last is None else last / FILE
        self.before = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}

    def totals(self) -> tuple[float, int | None]:
        """Return seconds and bytes, including those before the resumption."""
        peak, before = self.peak(), self.before.get("peak_bytes")
        seconds = time.perf_counter() - self.started + self.before.get("seconds", 0.0)
        return seconds, peak if peak is None or before is None else max(peak, before)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            totals = dict(zip(("seconds", "peak_bytes"), self.totals(), strict=True))
            (folder / FILE).write_text(json.dumps(totals), encoding="utf-8")


@contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Measure the peak memory of the block in bytes: allocated on the GPU, resident on the CPU (Linux; else None)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what earlier runs of this process left reserved does not count
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    _trim_heap()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM, see man 5 proc
    except OSError:
        yield lambda: None
        return

    def read() -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

    yield read


def _trim_heap() -> None:
    """Return freed memory of earlier runs to the system, so that it does not count for later ones."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
