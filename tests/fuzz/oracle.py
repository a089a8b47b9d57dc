"""What must hold for every command, and a workspace that shows whether it does.

The exit code is 0, or 2, or 1 with a result whose status is failed; no traceback is printed; the command ends within
the limit; nothing is written outside `out`; no file or name contains the planted secret, which is the value of
environment variables; nothing runs the planted code, which would create a file `ran`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers.fork_server import LIMIT, Finished, ForkServer

SECRET = "sk-planted-5f0c2ae1b7"
SECRETS = dict.fromkeys(("PLANTED_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "DB_PASSWORD"), SECRET)
MARKER = "ran"
FIFO, FOLDER, LOOP = b"\0fifo", b"\0folder", b"\0loop"  # contents that stand for other kinds of files
LINK = b"\0link"  # and the target of a link after it
OWN_PLACES = (
    "out",
    "output",
    "run",
    "runs",
    "hydra",
    "+hydra",
    "++hydra",
)  # keys with which users choose where to write


@dataclass(frozen=True)
class Example:
    """A command, and the files that are added to the workspace before it."""

    words: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    entry: str = "peftkit.cli:main"

    @property
    def chooses_places(self) -> bool:
        typed = [word.lstrip("~").partition("=")[0].partition("/")[0].partition(".")[0] for word in self.words]
        return any(
            key in OWN_PLACES and not word.startswith("out=outputs")
            for key, word in zip(typed, self.words, strict=True)
        )


class Workspace:
    """A folder in which each example runs in a fresh copy of a template: cwd/, and home/ beside it."""

    def __init__(self, root: Path, template: Path, server: ForkServer) -> None:
        self.root, self.template, self.server = root, template, server

    def attempt(self, example: Example) -> tuple[Finished, list[str]]:
        """Run an example; return how it ended and what it did wrong."""
        place = self.root / "place"
        shutil.rmtree(place, ignore_errors=True)
        cwd, home = place / "a" / "cwd", place / "home"
        shutil.copytree(self.template, cwd, symlinks=True)
        home.mkdir()
        for name, content in example.files.items():
            plant(cwd / name, content)
        before = snapshot(place)
        environment = {**SECRETS, "HOME": str(home), "TMPDIR": str(place / "tmp")}
        (place / "tmp").mkdir()
        finished = self.server.run(example.words, cwd, environment, entry=example.entry)
        return finished, [*ending(finished, cwd), *written(example, place, cwd, before)]


def ending(finished: Finished, cwd: Path) -> list[str]:
    """Return what is wrong with exit code and output."""
    wrong = []
    if finished.seconds >= LIMIT:
        wrong.append(f"no end within {LIMIT:.0f} s")
    elif finished.code == 1 and not has_failed_result(cwd):
        wrong.append("exit code 1 without a failed result")
    elif finished.code not in (0, 1, 2):
        wrong.append(f"exit code {finished.code}")
    if "Traceback (most recent call last)" in finished.output:
        wrong.append("traceback")
    if finished.code == 2 and not finished.stderr.strip():
        wrong.append("refused without a sentence")
    return wrong


def has_failed_result(cwd: Path) -> bool:
    for file in cwd.rglob("result.json"):
        try:
            if json.loads(file.read_text(encoding="utf-8"))["meta"]["status"] == "failed":
                return True
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return False


def written(example: Example, place: Path, cwd: Path, before: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return what is wrong with the files that the command wrote."""
    after = snapshot(place)
    changed = [name for name, state in after.items() if before.get(name) != state]
    caches = ("home/.cache/", "home/.config/", "home/.local/", "home/.triton/", "tmp/", "a/cwd/outputs/")
    outside = [name for name in changed if not name.startswith(caches)]
    wrong = [f"runs planted code: {name}" for name in after if Path(name).name == MARKER]
    gone = [name for name in before if name not in after and not name.startswith(caches)]
    if gone and not example.chooses_places:
        wrong.append(f"deletes outside out: {gone[0]}")
    if outside and not example.chooses_places:
        wrong.append(f"writes outside out: {outside[0]}")
    for name in changed:
        file = place / name
        content = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        if SECRET in name or SECRET.encode() in content:
            wrong.append(f"secret in {name}")
    return wrong


def snapshot(place: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file below a folder, by relative path."""
    found = {}
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder, name)
            state = path.lstat()
            found[str(path.relative_to(place))] = (state.st_size, state.st_mtime_ns)
    return found


def plant(path: Path, content: bytes) -> None:
    """Write a file, or put a FIFO, a folder or a looping link in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    if content == FIFO:
        os.mkfifo(path)
    elif content == FOLDER:
        path.mkdir()
    elif content == LOOP:
        path.symlink_to(path.name)
    elif content.startswith(LINK):
        path.symlink_to(content.removeprefix(LINK).decode())
    else:
        path.write_bytes(content)
