"""Conversations with a run: answers against job=predict and plain transformers, commands, interrupts, wrong input."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.conversations import instruction_run

from peftkit import api
from peftkit.config import UserError
from peftkit.jobs.chat_terminal import without_controls
from peftkit.pipeline.artifacts import load_run
from peftkit.pipeline.conversation import open_conversation

Talk = Callable[..., list[str]]
FIRST, SECOND = "Name film 3.", "Name a long film."


@pytest.fixture(scope="module")
def runs(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of an instruction-tuned run of a tiny model, trained once a module."""
    done: dict[str, Path] = {}

    def find(model: str) -> Path:
        if model not in done:
            done[model] = instruction_run(tmp_path_factory.mktemp("talks"), checkpoints[model])
        return done[model]

    return find


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Return a function that sends lines through a pipe and returns the lines on stdout, and those on stderr last."""

    def send(run: Path, *lines: str | bytes, overrides: tuple[str, ...] = ()) -> list[str]:
        data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capsys.readouterr()
        commands.run(["job=chat", f"run={run}", *overrides])
        out, err = capsys.readouterr()
        return [*out.splitlines(), err]

    return send


def plain(run: Path, *contents: str, system: str | None = None, **settings: Any) -> str:
    """Return the answer of plain transformers to turns of the user and the assistant, in the chat template."""
    model, tokenizer = load_run(run)
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(contents)]
    turns = ([] if system is None else [{"role": "system", "content": system}]) + turns
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    settings = {"max_new_tokens": 16, "pad_token_id": tokenizer.pad_token_id, "do_sample": False} | settings
    with torch.no_grad():
        out = model.generate(**ids, **settings)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def text_of(lines: list[str]) -> str:
    return "\n".join(lines[:-1])


@pytest.mark.parametrize("model", ["smollm2", "gpt2", "t5"])
def test_an_answer_is_that_of_job_predict(runs: Callable[[str], Path], talk: Talk, model: str) -> None:
    run, settings = runs(model), {"min_new_tokens": 8}  # an untrained T5 says nothing
    found = talk(run, FIRST, overrides=("task.generation.min_new_tokens=8",))
    assert text_of(found) == api.predict(run, FIRST, **{"task.generation": settings}).prediction != ""


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"repetition_penalty": 1.5, "max_new_tokens": 4}])
def test_answers_equal_plain_transformers_with_the_turns_before(
    runs: Callable[[str], Path], talk: Talk, settings: dict[str, Any]
) -> None:
    run = runs("smollm2")
    first = plain(run, FIRST, system="Be brief.", **settings)
    second = plain(run, FIRST, first, SECOND, system="Be brief.", **settings)
    overrides = ("chat.system='Be brief.'", *(f"task.generation.{name}={value}" for name, value in settings.items()))
    assert text_of(talk(run, FIRST, SECOND, overrides=overrides)) == f"{first}\n{second}"
    afresh = plain(run, SECOND, system="Be brief.", **settings)
    assert text_of(talk(run, FIRST, "/reset", SECOND, overrides=overrides)) == f"{first}\n{afresh}"


def test_beams_of_the_checkpoint_s_own_config_are_searched(runs: Callable[[str], Path]) -> None:
    run = runs("smollm2")
    (config,) = commands.choose(["job=chat", f"run={run}"])
    conversation = open_conversation(config)
    conversation.bundle.model.generation_config.num_beams = 3
    assert conversation.answer(FIRST, lambda _: None, lambda: False).text == plain(run, FIRST, num_beams=3)


def test_sampled_answers_follow_the_seed_as_those_of_job_predict_do(runs: Callable[[str], Path], talk: Talk) -> None:
    run = runs("smollm2")
    settings = {"do_sample": True, "temperature": 3.0}
    overrides = tuple(f"task.generation.{name}={str(value).lower()}" for name, value in settings.items())
    lines = talk(run, FIRST, "/reset", FIRST, overrides=overrides)
    found = [each.prediction for each in api.predict(run, [FIRST, FIRST], **{"task.generation": settings})]
    assert text_of(lines) == "\n".join(found) and found[0] != found[1]
    assert text_of(talk(run, FIRST, overrides=(*overrides, "seed=1"))) != found[0]


def test_the_oldest_turns_are_left_out_where_the_context_is_full(runs: Callable[[str], Path], talk: Talk) -> None:
    run, message = runs("smollm2"), "the film is great and the actors are great"
    lines = talk(run, *[message] * 6)
    assert "turns do not fit into the context and are left out" in lines[-1]
    assert "first" in talk(run, "the film " * 200)[-1]
    with pytest.raises(
        UserError, match=r"^max_new_tokens=128 leaves no tokens .* the model's 128; set max_new_tokens=64$"
    ):
        talk(run, "/set max_new_tokens=128", message)


def test_commands_change_settings_and_wrong_ones_change_nothing(runs: Callable[[str], Path], talk: Talk) -> None:
    run = runs("smollm2")
    lines = talk(
        run, "/set num_beams=3 max_new_tokens=4", FIRST, "/set num_beams=null", "/reset", FIRST, "/exit", FIRST
    )
    expected = [plain(run, FIRST, max_new_tokens=4, **more) for more in ({"num_beams": 3}, {})]
    assert text_of(lines) == "\n".join(expected)
    assert "num_beams=3, answers of at most 4 tokens" in lines[-1] and "greedy decoding" in lines[-1]
    for command, message in {
        "/set temperature=0.7": "temperature=0.7 is for sampling; set do_sample=true, or drop it",
        "/set num_beam=2": "did you mean num_beams?",
        "/set min_new_tokens=99": "set max_new_tokens=99",
        "/set num_beams": "expected name=value",
        "/rest": "unknown command /rest; did you mean /reset?",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            talk(run, command)


def test_a_line_that_is_not_utf_8_is_refused_by_its_number(runs: Callable[[str], Path], talk: Talk) -> None:
    with pytest.raises(UserError, match="line 2 of the input is not UTF-8; convert it, such as by iconv -t utf-8"):
        talk(runs("smollm2"), "", b"caf\xe9")


def test_a_run_of_another_kind_is_refused(tiny: Callable[..., list[str]]) -> None:
    (run,) = commands.finetune(*tiny("bert", "task=mrpc", "method=lora"))
    (message,) = commands.check(["job=chat", f"run={run}"])
    assert "is a run of classification, which answers no messages; use job=predict input='a text'" in message


@pytest.mark.parametrize("has_turns", [True, False])
def test_a_run_on_preferences_answers_as_job_predict_does(
    tiny: Callable[..., list[str]], talk: Talk, tmp_path: Path, has_turns: bool
) -> None:
    rows = [{"prompt": f"Name film {n}.", "chosen": f"film {n} is a great film", "rejected": "no"} for n in range(12)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = ["task=preferences", f"task.dataset={file}", "task.max_length=48", "task.max_target_length=16"]
    (run,) = commands.finetune(*tiny("gpt2", *task, f"task.chat={str(has_turns).lower()}", "train.bf16=false"))
    chosen = {"min_new_tokens": 8, "repetition_penalty": 5.0}  # an untrained model repeats white space
    settings = tuple(f"task.generation.{name}={value}" for name, value in chosen.items())
    found = api.predict(run, [FIRST, SECOND], **{"task.generation": chosen})
    first, second = (str(each.prediction) for each in found)
    together = text_of(talk(run, FIRST, SECOND, overrides=settings))
    assert first and together.startswith(f"{first}\n") and (together == f"{first}\n{second}") != has_turns
    assert text_of(talk(run, FIRST, "/reset", SECOND, overrides=settings)) == f"{first}\n{second}"
    if not has_turns:
        with pytest.raises(UserError, match="the prompts of the run are texts without turns"):
            talk(run, FIRST, overrides=("chat.system=Hello",))


def test_control_characters_are_spelled_out() -> None:
    assert without_controls("a\x1b[31mb\rc\x07\x9b\x7f\u202e\u2028") == r"a\x1b[31mb\rc\x07\x9b\x7f\u202e\u2028"
    harmless = "Käse\t東京\n👩\u200d🚀 می\u200cخواهم\u00a0\u3000e\u0301"
    assert without_controls(harmless) == harmless


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[str]], None]:
    """Return a function that makes lines those that a user types in a terminal."""

    def type_lines(lines: Iterator[str]) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _: next(lines, None) or press_ctrl_d())

    return type_lines


def press_ctrl_d() -> str:
    raise EOFError


def test_ctrl_c_ends_an_answer_and_drops_a_line_but_not_the_chat(
    runs: Callable[[str], Path],
    terminal: Callable[[Iterator[str]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, before = runs("smollm2"), signal.getsignal(signal.SIGINT)
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def lines() -> Iterator[str]:
        yield FIRST
        os.kill(os.getpid(), signal.SIGINT)
        yield "never sent"  # type: ignore[unreachable]

    monkeypatch.setattr("peftkit.jobs.chat.write_text", show)
    terminal(lines())
    commands.run(["job=chat", f"run={run}", "task.generation.min_new_tokens=16"])
    whole = plain(run, FIRST, min_new_tokens=16)
    assert whole.startswith("".join(shown).strip()) and "".join(shown).strip() != whole and shown[-1] == "\n"
    assert signal.getsignal(signal.SIGINT) == before and "Ctrl-D ends the chat" in capsys.readouterr().err


@pytest.mark.slow
def test_a_chat_in_a_pseudo_terminal(runs: Callable[[str], Path]) -> None:
    import pty

    run, (outer, inner) = runs("smollm2"), pty.openpty()
    command = [sys.executable, "-m", "peftkit", "job=chat", f"run={run}", "task.generation.min_new_tokens=16"]
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, close_fds=True, start_new_session=True)
    os.close(inner)
    seen = b""

    def expect(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 300
        while text not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(outer, 4096)
        seen = seen.partition(text)[2]

    expect(b"> ")
    os.write(outer, f"{FIRST}\r".encode())
    expect(plain(run, FIRST, min_new_tokens=16).splitlines()[0].encode())
    expect(b"> ")
    os.write(outer, b"/sat\r")
    expect(b"unknown command /sat; did you mean /set?")
    expect(b"> ")
    os.write(outer, b"\x04")
    assert process.wait(60) == 0
