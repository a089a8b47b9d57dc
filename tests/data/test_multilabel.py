"""Several labels for a text: read from every form to the same examples, encoded, and refused where it is unclear."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.commands import compose_config
from torch import nn

import peftkit
from peftkit.config import TaskConfig, UserError
from peftkit.data.class_weights import class_weights
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.formats.multilabel import MultilabelFormat
from peftkit.data.labels import joined_labels
from peftkit.training.losses import WeightedBinaryCrossEntropy

NAMES = ["billing", "bug", "how to"]
SETS = [["bug"], [], ["billing", "how to"], ["bug", "billing"], ["billing"]] * 6
ROWS = [{"id": number, "text": f"ticket {number}", "labels": labels} for number, labels in enumerate(SETS)]


@cache
def task() -> TaskConfig:
    return TaskConfig(**compose_config(["task=multilabel", "task.dataset=x", "task.text=[text]"]).task)


def load(file: Path, **changes: Any) -> TaskDataset:
    return load_task_dataset(replace(task(), dataset=str(file), **changes), None, "offline")


def jsonl(at: Path, rows: list[dict[str, Any]]) -> Path:
    (at / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return at / "data.jsonl"


def table(at: Path, names: list[str], rows: list[list[Any]]) -> Path:
    with (at / "data.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return at / "data.csv"


def sets(data: TaskDataset) -> dict[str, set[str]]:
    return {
        row["text"]: {(data.label_names or [])[label] for label in row["label"]}
        for split in data.splits.values() for row in split
    }  # fmt: skip


def test_all_forms_of_labels_are_read_alike(tmp_path: Path) -> None:
    expected = {row["text"]: {*row["labels"]} for row in ROWS}
    flags = [[int(name in labels) for name in NAMES] for labels in SETS]
    found = [
        load(jsonl(tmp_path, ROWS)),
        load(jsonl(tmp_path, [{**row, "labels": each} for row, each in zip(ROWS, flags, strict=True)]), labels=NAMES),
    ]
    for cells in (["|".join(labels) for labels in SETS], [" | ".join(labels) for labels in SETS]):
        file = table(tmp_path, ["text", "labels"], [[row["text"], cell] for row, cell in zip(ROWS, cells, strict=True)])
        found.append(load(file, label_separator="|"))
    found.append(load(table(tmp_path, ["text", "labels"], [[row["text"], str(row["labels"])] for row in ROWS])))
    file = table(tmp_path, ["text", *NAMES], [[row["text"], *each] for row, each in zip(ROWS, flags, strict=True)])
    found.append(load(file, label=NAMES))
    for data in found:
        assert data.label_names == NAMES and sets(data) == expected
    assert {name: len(split) for name, split in found[0].splits.items()} == {"train": 27, "validation": 3}


def test_hidden_labels_are_not_empty_ones(tmp_path: Path) -> None:
    rows = [[row["text"], *(int(name in row["labels"]) for name in NAMES)] for row in ROWS]
    rows[0][1:], rows[1][1:] = [-1, -1, -1], ["", "", ""]
    assert load(table(tmp_path, ["text", *NAMES], rows), label=NAMES).dropped["train"] == 2
    rows[2][1:] = [1, "", 0]
    with pytest.raises(UserError, match="row 3 of train has no 0 or 1 in column bug"):
        load(table(tmp_path, ["text", *NAMES], rows), label=NAMES)
    assert load(jsonl(tmp_path, [*ROWS, {"text": "hidden", "labels": None}])).dropped["train"] == 1


@pytest.mark.parametrize(
    ("labels", "changes", "message", "fix"),
    [
        ("bug|billing", {}, "not a list of labels", "task.label_separator='|'"),
        ("bug", {}, "not a list of labels", "task=classification"),
        ([0, 1, 1], {}, "0 and 1 for each of 3 labels", "task.labels=[label_1,label_2,label_3]"),
        (["bug"], {}, "all have the labels bug", None),
        (["bug", None], {}, "one of them empty", None),
        (["bug"], {"class_weights": {"bugg": 2}}, "unknown label bugg", None),
    ],
)
def test_unclear_labels_are_refused(
    labels: Any, changes: dict[str, Any], message: str, fix: str | None, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as error:
        load(jsonl(tmp_path, [{"text": f"text {number}", "labels": labels} for number in range(20)]), **changes)
    assert fix is None or any(fix.replace("'", "") in each.replace("'", "") for each in error.value.fix)


def test_a_list_of_labels_names_the_task_that_reads_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"multi-label.*task=multilabel") as error:
        load(jsonl(tmp_path, ROWS), kind="classification")
    assert error.value.fix == ("task=multilabel",)


def test_labels_that_join_others_are_stated(tmp_path: Path) -> None:
    texts = ["bug", "how to", "bug; how to", "bug; other", "billing"] * 4
    file = jsonl(tmp_path, [{"text": f"ticket {number}", "label": text} for number, text in enumerate(texts)])
    single = TaskConfig(**compose_config(["task=classification", f"task.dataset={file}", "task.text=[text]"]).task)
    remark = next(each for each in load_task_dataset(single, None, "offline").remarks if "join" in each)
    assert "1 of 5 labels join others by ';' (bug; how to), in 3 of 18" in remark and "task=multilabel" in remark
    assert "\"task.label_separator=';'\"" in remark
    assert joined_labels(["a", "b", "a,c", "a|a", ","]) is None
    assert joined_labels(["0", "1", "0|1"]) == ("|", ["0|1"])


def test_weighted_binary_cross_entropy_is_that_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 3), torch.randint(0, 2, (6, 3)).float(), torch.tensor([1.0, 4.0, 0.5])
    batch = {"labels": labels}
    model = lambda: SimpleNamespace(logits=logits)  # noqa: E731
    expected = nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels)
    torch.testing.assert_close(WeightedBinaryCrossEntropy(weights)(model, batch), expected, rtol=0, atol=1e-6)
    p = torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid())
    expected = (torch.where(labels == 1, weights, 1.0) * (1 - p) ** 2 * -p.log()).mean()  # Lin et al. 2017, equation 5
    torch.testing.assert_close(WeightedBinaryCrossEntropy(weights, 2.0)(model, batch), expected, rtol=0, atol=1e-6)
    found = class_weights(replace(task(), class_weights="balanced"), NAMES, np.array([[1, 0, 0], [1, 0, 1], [1, 0, 1]]))
    assert found == {"billing": 1.0, "bug": 1.0, "how to": 0.5}


def test_predictions_are_the_labels_of_half_or_more_probability() -> None:
    each: Any = MultilabelFormat(task(), None, "encoder", NAMES)  # type: ignore[arg-type]
    found = each.decode([np.array([0.0, -0.1, 3.0]), np.array([-1.0, -1.0, -1.0])], None)
    assert each.recorded(found.predictions) == [[0, 2], []]
    assert [each.describe(row) for row in found.predictions] == [["billing", "how to"], []]
    joined = replace(each, task=replace(task(), label_separator="|"))
    assert joined.describe(found.predictions[0]) == "billing|how to"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2", "t5_encoder"])
def test_a_run_predicts_lists_of_labels(model: str, tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    rows = [{"text": " ".join([*row["labels"], "the film"]), "labels": row["labels"]} for row in ROWS]
    data = [f"task.dataset={jsonl(tmp_path, rows)}", "task.class_weights=balanced"]
    words = tiny(model.removesuffix("_encoder"), "task=multilabel", "task.text=[text]", "method=lora", *data)
    (folder,) = commands.finetune(*(f"model={model}" if each == "model=t5" else each for each in words))
    result = json.loads((folder / "result.json").read_text())
    assert [*result["scores"]] == task().metrics and result["audit"]["class_weights"].keys() == {*NAMES}
    (found,) = peftkit.predict(folder, ["bug the film"])
    assert found.prediction == [name for name, score in zip(NAMES, found.scores, strict=True) if score >= 0]
    trained, _ = peftkit.load(folder)
    assert trained.config.problem_type == "multi_label_classification"
    evaluated = peftkit.evaluate(folder)
    for name, each in result["scores"].items():
        assert evaluated.scores[name]["value"] == pytest.approx(each["value"], abs=0.05), name
