"""The workspace of the examples, and their random generation from a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from helpers.fork_server import ForkServer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.commands import RUNS
from fuzz.everyday import EVERYDAY_RUNS
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
    "terms.txt": "zyxwort\nqux/zed\n",
    "mixed.jsonl": json.dumps({"text": "a fine film", "task": "classification"}),
}
READ = (".json", ".yaml", ".safetensors", ".parquet")  # endings of the files that are damaged


OWN = (
    "task=classification",
    "task.dataset=data/plain.jsonl",
    "task.text=[text]",
    "train.max_steps=1",
    "train.disable_tqdm=true",
)
MAKE = {  # the commands of the runs
    "classifier": ("model=bert", *OWN),
    "full": ("model=bert", "method=full", *OWN),
    "answers": ("model=t5", *OWN, "task=seq2seq", "task.label=label", "task.max_eval_samples=2"),
    "prompted": ("model=gpt2", "method=few_shot", *(word for word in OWN if not word.startswith("train")), "task.max_eval_samples=4"),
    "calibrated": ("model=bert", "seed=1", *OWN, "calibration.holdout=0.3"),
    "folded": ("model=bert", *OWN, "task.folds=2"),
    "vocabulary": ("job=extend", "model=bert", "extend.terms=data/terms.txt", "force=true"),
}  # fmt: skip


def make_workspace(
    root: Path, server: ForkServer, checkpoints: Path, kinds: Sequence[str] = ("classifier",)
) -> Workspace:
    """Return a workspace whose template has data, the tiny checkpoints of a folder, and finished runs of `kinds`."""
    template = root / "template"
    (template / "data").mkdir(parents=True)
    for name, text in DATA.items():
        (template / "data" / name).write_text(text, encoding="utf-8")
    (template / "models").symlink_to(checkpoints.resolve())
    folders = RUNS | EVERYDAY_RUNS
    for kind in kinds:
        model = MAKE[kind][kind == "vocabulary"].removeprefix("model=")
        words = (*MAKE[kind], f"model.checkpoint=models/{model}", "source=offline", f"out=made/{kind}")
        finished = server.run(words, template)
        assert finished.code == 0, finished.output
        record = "vocabulary.json" if kind == "vocabulary" else "result.json"
        result = min((template / "made" / kind).rglob(record), key=lambda path: len(path.parts))
        (template / folders[kind]).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(result.parent, template / folders[kind])
        if kind == "answers":
            shutil.copytree(template / RUNS[kind], template / f"{RUNS[kind]}-copy")
    shutil.rmtree(template / "made")
    return Workspace(root, template, server)


def run_files(workspace: Workspace) -> dict[str, dict[str, bytes]]:
    """Return the files of the finished runs by what they are and relative name."""
    found = {}
    for kind, folder in RUNS.items():
        run = workspace.template / folder
        files = {str(file.relative_to(run)): file for file in sorted(run.rglob("*")) if file.is_file()}
        if files:
            found[kind] = {name: file.read_bytes() for name, file in files.items() if file.suffix in READ}
    return found


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
