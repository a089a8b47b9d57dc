"""A file that a job cannot write is refused before anything loads."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import check

from peftkit.paths import exists


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.csv").write_text("text\na film\n")
    (tmp_path / "link.csv").symlink_to("given.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["job=predict", "input=given.csv", "output=given.csv"], "output=given.csv is the input; name another file"),
        (["job=predict", "input=given.csv", "output=./given.csv"], "is the input"),
        (["job=predict", "input=given.csv", "output=run/../given.csv"], "is the input"),
        (["job=predict", "input=given.csv", "output=link.csv"], "is the input"),
        (["job=predict", "input=given.csv", "output=folder.csv"], "is a folder"),
        (["job=predict", "input=given.csv", "output=run"], "expected a file that ends in .csv"),
        (["job=predict", "input=given.csv", "output=."], "expected a file that ends in .csv"),
        (["job=predict", "input=given.csv", "output=/"], "expected a file that ends in .csv"),
        (["job=predict", "input=given.csv", "output=run/predictions.parquet"], "is a file of a run"),
        (["job=predict", "input=given.csv", f"output={'x' * 260}.csv"], "has more than 255 bytes"),
        (["job=predict", "input=given.csv", f"output={'é' * 130}.csv"], "has more than 255 bytes"),
        (["job=embed", "input=given.csv", f"output={'x' * 243}.parquet"], "has more than 255 bytes"),
        (["job=predict", f"input={'x' * 250}.csv"], "its name is too long to add an ending; set output=FILE"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(folder: Path, overrides: list[str], message: str) -> None:
    if overrides[1].startswith("input=xx"):
        (folder / overrides[1].removeprefix("input=")).write_text("text\na film\n")
    found = [each for each in check(["run=run", *overrides]) if "result" not in each]
    assert len(found) == 1 and message in found[0]
    if "; name " in found[0]:  # the advice works when typed
        advice = found[0].rpartition(" ")[2]
        again = check(["run=run", *(each for each in overrides if "output=" not in each), advice])
        assert not any("output=" in each for each in again) and not exists(advice.removeprefix("output="))


def test_a_base_is_stored_beside_adapters_only() -> None:
    base = ["task=sst2", "export.with_base=true"]
    assert check([*base, "method=lora"]) == []
    (message,) = check([*base, "method=full"])
    assert message == "export.with_base=true stores the base beside an adapter, method=full saves none; drop it"
    (message,) = check([*base, "task.folds=5"])
    assert "this run keeps no model" in message
    found = check(["job=export", "format=onnx", "export.with_base=true", "run=x"])
    assert any("in training, not in job=export" in each for each in found)
