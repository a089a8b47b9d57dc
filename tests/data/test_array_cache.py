"""Cached arrays are those that were written; other files are ignored, and a folder that cannot be written costs time."""

import os
from pathlib import Path

import pytest
import torch

from peftkit.data import array_cache
from peftkit.data.array_cache import read_arrays, write_arrays

ARRAYS = {
    "ids": torch.arange(7, dtype=torch.int32),
    "states": torch.randn(3, 2).bfloat16(),
    "none": torch.empty(0, dtype=torch.int64),
    "mask": torch.tensor([True, False]),
    "number": torch.tensor(3),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    array_cache._log_unwritten.cache_clear()
    return tmp_path / "home" / "arrays"


def test_arrays_are_read_as_they_were_written() -> None:
    assert read_arrays("test", "0a") is None
    write_arrays("test", "0a", ARRAYS)
    found = read_arrays("test", "0a")
    assert found is not None and found.keys() == ARRAYS.keys()
    assert all(found[name].dtype == each.dtype and torch.equal(found[name], each) for name, each in ARRAYS.items())


def test_damaged_and_foreign_entries_are_ignored_and_replaced(folder: Path) -> None:
    write_arrays("test", "0a", ARRAYS)
    file = folder / "test" / "0a.safetensors"
    content = file.read_bytes()
    for place in range(0, len(content), 16):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = read_arrays("test", "0a")
        assert found is None or all(torch.equal(found[name], each) for name, each in ARRAYS.items())
    for other in (b"", content[:-1], b"[" * 100, b"\xff" * 64):
        file.write_bytes(other)
        assert read_arrays("test", "0a") is None
    (folder / "test" / "0b.safetensors").write_bytes(content)  # of another key
    assert read_arrays("test", "0b") is None
    write_arrays("test", "0a", ARRAYS)
    assert read_arrays("test", "0a") is not None


def test_the_least_recently_used_entries_are_deleted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = {"x": torch.zeros(1000)}
    write_arrays("a", "00", array)
    size = (folder / "a" / "00.safetensors").stat().st_size
    monkeypatch.setattr(array_cache, "MAX_BYTES", 3 * size)
    for number, key in enumerate(("01", "02")):
        write_arrays("a", key, array)
        os.utime(folder / "a" / f"{key}.safetensors", (number, number))
    assert read_arrays("a", "01") is not None  # used again
    write_arrays("b", "03", array)
    assert sorted(file.stem for file in folder.glob("*/*")) == ["00", "01", "03"]
    write_arrays("b", "04", {"x": torch.zeros(2000)})  # over half of the limit
    assert read_arrays("b", "04") is None


def test_a_folder_that_cannot_be_written_is_named_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")
    for key in ("00", "01"):
        write_arrays("test", key, ARRAYS)
        assert read_arrays("test", key) is None
    shown = capsys.readouterr()
    message = shown.err + shown.out
    assert message.count("nothing is cached; set PEFTKIT_HOME to another folder") == 1
    assert folder.read_text() == "a file"
