"""The workspace of the examples, and their random generation from a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from helpers.fork_server import ForkServer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.commands import RUN
from fuzz.oracle import Example, Workspace

TEXTS = {"pos": "a fine film", "neg": "a dull film"}
DATA = {
    "plain.jsonl": "\n".join(
        json.dumps({"text": f"{text} {n}", "label": label}) for n in range(12) for label, text in TEXTS.items()
    ),
    "plain.csv": "text,label\n" + "\n".join(f"{text} {n},{label}" for n in range(12) for label, text in TEXTS.items()),
    "tags.conll": "\n\n".join("Joren B-PER\nmet O\nTamsin B-PER" for _ in range(12)),
    "texts.txt": "the old mill\na fine film\n" * 20,
    "empty.csv": "",
}


def make_workspace(root: Path, server: ForkServer, checkpoints: Path) -> Workspace:
    """Return a workspace whose template has data, the tiny checkpoints of a folder, and a finished run."""
    template = root / "template"
    (template / "data").mkdir(parents=True)
    for name, text in DATA.items():
        (template / "data" / name).write_text(text, encoding="utf-8")
    (template / "models").symlink_to(checkpoints.resolve())
    words = [
        "model=bert", "model.checkpoint=models/bert", "source=offline", "out=outputs", "task=classification",
        "task.dataset=data/plain.jsonl", "task.text=[text]", "train.max_steps=1", "train.disable_tqdm=true",
    ]  # fmt: skip
    finished = server.run(words, template)
    assert finished.code == 0, finished.output
    (result,) = (template / "outputs").rglob("result.json")
    shutil.move(result.parent, template / RUN)
    return Workspace(root, template, server)


def run_files(workspace: Workspace) -> dict[str, bytes]:
    """Return the small files of the finished run by relative name."""
    run = workspace.template / RUN
    files = {str(file.relative_to(run)): file for file in sorted(run.rglob("*")) if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if file.suffix in (".json", ".yaml")}


def for_each(strategy: st.SearchStrategy[Example], count: int, number: int, visit: Callable[[Example], None]) -> None:
    """Call `visit` with `count` random examples of a seed; the same seed gives the same examples."""

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: Example) -> None:
        visit(example)

    each()
