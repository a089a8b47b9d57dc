"""miniglue: the columns, labels and splits of all GLUE tasks, generated from templates."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from peftkit.data.miniglue import pairs, single
from peftkit.data.miniglue.lexicon import WordSampler
from peftkit.data.miniglue.scenes import draw_scene, render, with_facet_changed

Row = dict[str, Any]
TASKS: dict[str, Callable[[WordSampler], Row]] = {
    "cola": single.cola,
    "sst2": single.sst2,
    "mrpc": pairs.mrpc,
    "qqp": pairs.qqp,
    "stsb": pairs.stsb,
    "mnli": pairs.mnli,
    "qnli": pairs.qnli,
    "rte": pairs.rte,
    "wnli": pairs.wnli,
    "ax": pairs.mnli,
}
TEST_ROWS = 100


def miniglue(task: str, train_rows: int = 640, validation_rows: int = 200, seed: int = 0) -> dict[str, list[Row]]:
    """Return the splits of one task, shaped as nyu-mll/glue's; test labels are hidden (-1), AX's are not.

    A quarter of the words and some sentence forms do not occur in train, so that memorizing fails.
    """
    if task not in TASKS:
        raise ValueError(f"miniglue has no task {task}; it has {', '.join(TASKS)}")
    suffixes = ["_matched", "_mismatched"] if task == "mnli" else [""]
    sizes = [] if task == "ax" else [("train", train_rows)]
    if task != "ax":
        sizes += [(f"validation{suffix}", validation_rows) for suffix in suffixes]
    sizes += [(f"test{suffix}", validation_rows if task == "ax" else TEST_ROWS) for suffix in suffixes]
    seen: set[tuple] = set()
    splits = {}
    for name, size in sizes:
        rows = _examples(task, name, size, seed, seen)
        if name.startswith("test") and task != "ax":
            rows = [{**row, "label": -1.0 if task == "stsb" else -1} for row in rows]
        splits[name] = rows
    return splits


def sentences(count: int, seed: int = 0) -> Iterator[str]:
    """Yield unlabelled documents of several sentences with all words, for pretraining."""
    words = WordSampler(random.Random(zlib.crc32(f"sentences-{seed}".encode())), "all")
    for _ in range(count):
        yield _document(words)


def _examples(task: str, split: str, size: int, seed: int, seen: set[tuple]) -> list[Row]:
    stage = "train" if split == "train" else "validation"
    words = WordSampler(random.Random(zlib.crc32(f"{task}-{split}-{seed}".encode())), stage)
    rows: list[Row] = []
    while len(rows) < size:
        row = pairs.mnli(words, mismatched=True) if split.endswith("_mismatched") else TASKS[task](words)
        key = tuple(value for name, value in row.items() if name != "label")
        if key not in seen:
            seen.add(key)
            rows.append({**row, "idx": len(rows)})
    return rows


def _document(words: WordSampler) -> str:
    kind = words.random.random()
    if kind < 0.25:
        return single.opinion(words)
    scene = draw_scene(words)
    lines = [render(scene, words), render(scene, words, vary=0.7)]
    if kind < 0.5:
        lines.append(render(with_facet_changed(with_facet_changed(scene, words, "opposite"), words, "negation"), words))
    elif kind < 0.75:
        lines.append(pairs.definition(words))
    else:
        lines += [render(scene, words, vary=0.5, general=True), render(draw_scene(words), words)]
    return " ".join(lines)
