"""The first signal interrupts, or waits within `deferred`; the second one is not deferred; ignored ones stay ignored."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import IO

import psutil
import pytest

from peftkit.config.signals import SIGNALS, Interrupted, deferred, exit_code, interruptible, pending
from peftkit.pipeline import verifier_process


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Handle signals as in a terminal: nohup, and a shell in the background, have some of them ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_with_its_number(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Interrupted) as caught, interruptible():
        send(number)
    assert exit_code(caught.value) == 128 + number
    assert str(caught.value) == f"interrupted by {signal.Signals(number).name}"
    assert [signal.getsignal(each) for each in SIGNALS] == before and not pending()


def test_a_deferred_signal_waits_for_the_end_of_its_block(capfd: pytest.CaptureFixture[str]) -> None:
    steps = []
    with pytest.raises(Interrupted), interruptible(), deferred():
        send(signal.SIGTERM)
        steps.append(pending())
    assert steps == [signal.SIGTERM]
    assert (
        capfd.readouterr().err == "peftkit: SIGTERM: a checkpoint is written after this step; again to stop at once\n"
    )


def test_the_second_signal_is_not_deferred() -> None:
    steps = []
    with pytest.raises(Interrupted) as caught, interruptible(), deferred():
        for number in (signal.SIGTERM, signal.SIGINT):
            send(number)
            steps.append(number)
    assert steps == [signal.SIGTERM] and exit_code(caught.value) == 143


def test_an_error_after_a_signal_is_its_effect() -> None:
    with pytest.raises(Interrupted), interruptible(), deferred():
        send(signal.SIGINT)
        raise RuntimeError("a worker of the data loader was killed")


def test_an_ignored_signal_stays_ignored_and_a_callers_handler_is_kept() -> None:
    received = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        with interruptible(), deferred():
            send(signal.SIGHUP)
        with deferred():
            send(signal.SIGTERM)
        assert received == [1]
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_a_second_signal_is_the_launchers_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    steps = []
    with pytest.raises(Interrupted), interruptible(), deferred():
        for number in (signal.SIGINT, signal.SIGTERM):
            send(number)
            steps.append(number)
    assert len(steps) == 2


def echo(requests: IO[str], responses: IO[str]) -> None:
    for line in requests:
        print(line, file=responses, flush=True)


def test_the_verifier_process_has_its_own_session_and_ends_with_its_parent() -> None:
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            verifier_process.fork(echo)
            (process,) = verifier_process._RUNNING
            process.requests.write("{}\n")
            process.requests.flush()
            process.responses.readline()  # it serves
            os.write(into, f"{process.pid} {os.getsid(process.pid)}".encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pid, session = map(int, os.read(out, 99).split())
    assert pid == session
    deadline = time.monotonic() + 10
    while has_not_ended(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_not_ended(pid: int) -> bool:
    """Return whether a process runs; one that nothing waits for remains as a zombie."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
