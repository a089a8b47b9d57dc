"""A broken file is one line of the help; the rest is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peftkit.cli.help import help_text
from peftkit.config import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose recipes/ has a file of each kind that cannot be read."""
    monkeypatch.chdir(tmp_path)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "folder.yaml").mkdir()
    os.mkfifo(recipes / "fifo.yaml")
    (recipes / "device.yaml").symlink_to("/dev/zero")
    (recipes / "loop.yaml").symlink_to("loop.yaml")
    (recipes / "dangling.yaml").symlink_to("nowhere")
    (recipes / "binary.yaml").write_bytes(b"# \xff\x1b[31mred\n")
    (recipes / "broken.yaml").write_text("# Fine.\na: [")
    with (recipes / "huge.yaml").open("wb") as file:
        file.truncate(2**34)
    return tmp_path


def test_the_overview_names_files_that_cannot_be_read(folder: Path) -> None:
    text = help_text([])
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.startswith("  ")}
    assert lines["fifo"] == lines["device"] == "cannot be read: it is not a regular file"
    assert lines["folder"] == "cannot be read: it is a folder, not a file"
    assert lines["huge"].startswith("cannot be read: it has more than")
    assert lines["dangling"].startswith("cannot be read: No such file")
    assert lines["broken"] == "Fine." and "lora_glue" in lines and "\x1b" not in text


@pytest.mark.parametrize("name", ["fifo", "folder", "device", "loop", "dangling", "binary", "broken", "huge"])
def test_the_page_of_such_a_file_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.yaml"):
        help_text([f"recipe={name}"])


def test_the_page_of_a_method_that_is_none_is_refused(folder: Path) -> None:
    (folder / "method").mkdir()
    (folder / "method" / "mine.yaml").write_text("config: [1]\n")
    with pytest.raises(UserError, match="is not the file of a method"):
        help_text(["method=mine"], folder)
    assert "mine" in help_text(["method"], folder)
