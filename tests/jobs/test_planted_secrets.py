"""Secrets planted in the environment are in no file, page or message of any command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.commands import check

from peftkit.config import UserError
from peftkit.jobs.leaderboard import write
from peftkit.leaderboard.board import Board
from peftkit.training.trainer import ScoringTrainer

Overrides = Callable[..., list[str]]
SECRETS = {
    "HF_TOKEN": "hf_" + "Planted1" * 5,
    "OPENAI_API_KEY": "sk-proj-" + "Planted2" * 4,
    "WANDB_API_KEY": "planted3" * 5,
    "AWS_SECRET_ACCESS_KEY": "Planted4/+" * 4,
    "DB_PASSWORD": "planted five",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/planted6.json",
}


def found_in(folder: Path, output: str) -> list[str]:
    """Return where a secret is: in a file, the name of one, or the output."""
    texts = {"output": output.encode()}
    for path in folder.rglob("*"):
        texts[str(path)] = path.read_bytes() if path.is_file() else b""
    return [
        f"{name} in {place}"
        for name, secret in SECRETS.items()
        for place, content in texts.items()
        if secret.encode() in content + place.encode() or json.dumps(secret).encode() in content
    ]


def test_planted_secrets_appear_nowhere(
    tiny: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    (run,) = commands.finetune(*tiny("bert", "task=sst2", "method=ia3", "train.report_to=none"))
    (tmp_path / "new.csv").write_text("sentence\na fine film\n")
    commands.predict(run, tmp_path / "new.csv", f"output={tmp_path}/outputs/predictions.csv")
    commands.evaluate(run)
    commands.run(["job=report", f"run={run}"])
    write(Board.read([tmp_path / "outputs"]), tmp_path / "outputs" / "board", "python -m peftkit job=leaderboard")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"401 for the headers {SECRETS}")

    monkeypatch.setattr(ScoringTrainer, "training_step", fail)
    with pytest.raises(RuntimeError):
        commands.finetune(*tiny("bert", "task=sst2", "method=ia3", "seed=1"))
    (failed,) = (file for file in tmp_path.rglob("result.json") if "seed-1-" in str(file))
    assert "401 for the headers" in json.loads(failed.read_text())["meta"]["reason"]
    for name, secret in SECRETS.items():  # what is typed
        for typed in (f"out='{tmp_path}/outputs/{secret}'", f"task.dataset='{secret}'", f"collator.key='{secret}'"):
            messages = check([typed])
            assert messages and secret not in "".join(messages) and name in "".join(messages)
    with pytest.raises(UserError, match="HF_TOKEN"):
        commands.finetune(*tiny("bert", "task=sst2"), f"train.run_name={SECRETS['HF_TOKEN']}")
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert {"result.json", "report.html", "index.html", "log.jsonl", "predictions.csv"} <= {file.name for file in files}
    assert found_in(tmp_path / "outputs", "".join(capfd.readouterr())) == []
