"""OpenMP's idle threads sleep while another process is busy."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from peftkit.compat import openmp

QUIET = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
PROGRAM = """
import os, time
from peftkit.compat import openmp
openmp.INTERVAL, openmp.QUIET = 0.05, 0.5
with openmp.shared_cores():
    own = len(os.listdir("/proc/self/task"))
    print("ready", flush=True)
    for _ in iter(input, "end"):
        print(len(os.listdir("/proc/self/task")) - own, flush=True)
"""


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """The share of a core that others use; a second of the clock passes with each look at it."""
    found = {"others": 0.0, "clock": 0.0, "cores": 0.0}

    def seconds() -> tuple[float, float, float]:
        found["clock"] += 1
        found["cores"] += found["others"] + 1
        return found["clock"], found["cores"], found["clock"]  # this process always uses one core

    monkeypatch.setattr(openmp, "_seconds", seconds)
    monkeypatch.setattr(openmp, "INTERVAL", 0.001)
    yield found


def _eventually(check: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:
        time.sleep(0.005)
    return check()


def test_threads_that_sleep_exist_while_others_are_busy(readings: dict[str, float]) -> None:
    end, before = threading.Event(), threading.active_count()
    watcher = threading.Thread(target=openmp._watch, args=(end,))
    watcher.start()
    try:
        assert _eventually(lambda: readings["clock"] > 10) and threading.active_count() == before + 1
        readings["others"] = 0.3
        assert _eventually(lambda: threading.active_count() == before + 2)
        readings["others"] = 0.2  # less than counts
        assert _eventually(lambda: threading.active_count() == before + 1)
        readings["others"] = 0.3
        assert _eventually(lambda: threading.active_count() == before + 2)
    finally:
        end.set()
        watcher.join()
    assert threading.active_count() == before


@pytest.mark.parametrize("setting", openmp.SETTINGS)
def test_the_users_setting_stands(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setenv(setting, "active")
    before = threading.active_count()
    with openmp.shared_cores():
        assert threading.active_count() == before


@pytest.mark.slow
@QUIET
def test_a_busy_process_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in openmp.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:

            def threads() -> int:
                process.stdin.write("count\n")
                process.stdin.flush()
                return int(process.stdout.readline())

            assert _eventually(lambda: threads() >= 2)  # one of Python and one of OpenMP
            busy.kill()
        process.stdin.write("end\n")
        process.stdin.close()
        assert process.wait() == 0
