"""Stages longer than two seconds are shown: a bar in a terminal, elsewhere lines; nothing from Python."""

from __future__ import annotations

import io
import sys
import time

import pytest

from peftkit.config import console, progress
from peftkit.config.progress import Stage, advance, counted, duration, shown_progress, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.02)
    monkeypatch.setattr(progress, "REFRESH_EVERY", 0.01)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(console, "ASSUMPTIONS", {})  # of other tests


def run_stage(seconds: float) -> None:
    with stage("training", 10, "step") as current:
        current.done, current.note = 4, "loss 0.500"
        time.sleep(seconds)


def test_a_terminal_has_a_bar_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with shown_progress():
        run_stage(0.2)
    drawn = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "training  40%|" in drawn and " 4/10 [" in drawn and "step" in drawn and "loss 0.500" in drawn
    assert drawn.split("\r")[-1] == ""  # it is erased at the end


def test_elsewhere_there_are_lines_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress():
        run_stage(0.12)
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("   training: 4 of 10 steps (40%), ") for line in lines)
    assert lines[0].endswith(" left") and "loss 0.500" in lines[0] and lines[0].isprintable()


def test_short_stages_inner_stages_and_calls_from_python_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    run_stage(0.1)
    with shown_progress(), stage("outer"):
        run_stage(0.0)
    with shown_progress(False):
        run_stage(0.1)
    assert capsys.readouterr().err == ""


def test_what_is_counted_belongs_to_the_stage_that_is_shown() -> None:
    advance(3)  # no stage: nothing happens
    with shown_progress(), stage("outer", 10) as outer:
        assert [*counted("inner", "abc", "letter")] == ["a", "b", "c"]
        advance(5)
    assert outer.done == 5


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (150, "2 min 30 s"), (7380, "2 h 3 min")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_stage_of_unknown_length_has_its_time() -> None:
    assert Stage("loading the model").line() == "loading the model: 0 s so far"


def test_a_stage_without_a_result_yet_says_what_it_rejected() -> None:
    assert Stage("self_instruct", 24, "task", note="3 rejected").line() == "self_instruct: 0 s so far, 3 rejected"
