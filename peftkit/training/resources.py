"""Turn a block of code, or a training with its resumptions, into the seconds and the bytes that it took."""

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


class ResourceTracker(TrainerCallback):
    """Keep in each checkpoint the seconds and the peak of memory that it took to get there."""

    def __init__(self, last: Path | None, peak: Callable[[], int | None]) -> None:
        self.started, self.peak = time.perf_counter(), peak
        file = None if last is None else last / "spent.json"
        self.before = json.loads(file.read_text()) if file is not None and file.is_file() else {}

    def now(self) -> tuple[float, int | None]:
        """Return seconds and bytes, those before a resumption included."""
        peak, before = self.peak(), self.before.get("peak_bytes")
        seconds = time.perf_counter() - self.started + self.before.get("seconds", 0.0)
        return seconds, peak if peak is None or before is None else max(peak, before)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            seconds, peak_bytes = self.now()
            (folder / "spent.json").write_text(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}))


@contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Measure the block's own peak in bytes: allocated on the GPU, resident on the CPU (Linux; else None)."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()  # what earlier runs of the process left reserved is not this one's
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    give_back_memory()
    try:
        clear.write_text("5")  # sets VmHWM back to the present size, see man 5 proc
        can_reset = True
    except OSError:
        can_reset = False

    def read() -> int | None:
        if not can_reset:
            return None
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    yield read


def give_back_memory() -> None:
    """Return to the system what earlier runs of this process left with the allocator, so that no later one pays."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
