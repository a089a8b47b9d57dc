"""Domains are read with the data, left out, and adapted to; miniglue's differ in what is chosen."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import choose

from peftkit.config import UserError
from peftkit.data.columns import DOMAIN
from peftkit.data.datasets import TaskDataset
from peftkit.data.domains import OTHERS_SPLIT, UNLABELED_SPLIT
from peftkit.data.miniglue import DOMAINS, miniglue, with_domains
from peftkit.pipeline.encoding import read_dataset

SHOPS = ["berlin", "paris", "rome", "7"]


def tickets(folder: Path, **changed: Any) -> Path:
    """Write 80 training and 40 validation examples of four shops; `changed` replaces cells of the column shop."""
    for split, count in (("train", 80), ("validation", 40)):
        rows = [
            {"text": f"{split} text {number}", "label": "ab"[number % 3 == 0], "shop": SHOPS[number % 4]}
            for number in range(count)
        ]
        for row, value in changed.items():
            rows[int(row.strip("_"))]["shop"] = value
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(folder: Path, *overrides: str) -> TaskDataset:
    (config,) = choose(
        ["task=classification", f"task.dataset={folder}", "task.text=[text]", "task.domain=shop", *overrides]
    )
    return read_dataset(config)


def counts(data: TaskDataset, split: str) -> dict[str, int]:
    return dict(Counter(data.splits[split][DOMAIN][:]))


def test_a_domain_is_left_out_of_training_and_alone_scored(tmp_path: Path) -> None:
    data = read(tickets(tmp_path), "domains.leave_out=7", "task.max_train_samples=30")
    assert sum(counts(data, "train").values()) == 30 and {*counts(data, "train")} == {"berlin", "paris", "rome"}
    assert counts(data, "validation") == {"7": 10}
    assert counts(data, OTHERS_SPLIT) == {"berlin": 10, "paris": 10, "rome": 10}
    whole = read(tmp_path)
    assert counts(whole, "train") == dict.fromkeys(["berlin", "paris", "rome", "7"], 20) and len(whole.splits) == 2


def test_labels_of_the_target_are_hidden_but_those_that_are_named(tmp_path: Path) -> None:
    target = "domains.target=rome", "domains.target_labels=5"
    data = read(tickets(tmp_path), *target, "domains.objective=adversarial")
    assert counts(data, "train") == {"berlin": 20, "paris": 20, "7": 20, "rome": 5}
    assert counts(data, UNLABELED_SPLIT) == {"rome": 15} and {*data.splits[UNLABELED_SPLIT]["label"][:]} == {None}
    texts = [each for split in ("train", UNLABELED_SPLIT) for each in data.splits[split]["text"][:]]
    assert len({*texts}) == 80
    few = read(tmp_path, *target, "task.max_train_samples=10")
    assert counts(few, "train")["rome"] == 5 and sum(counts(few, "train").values()) == 15
    assert UNLABELED_SPLIT not in few.splits


@pytest.mark.parametrize(
    ("changed", "overrides", "message"),
    [
        ({"_3": None, "_9": " "}, (), "column shop of train is empty in 2 of 80 rows, such as row 4; write a domain"),
        ({}, ("task.domain=shopp",), "has no column shopp, but text, label, shop; set task.domain=shop"),
        ({}, ("domains.leave_out=pariss",), "no such domain; did you mean domains.leave_out=paris?"),
        (
            {},
            ("domains.target=rome", "domains.target_labels=50"),
            "rome has 20 training examples; use domains.target_lab",
        ),
        (
            {},
            ("domains.target=rome",),
            "would not be trained on; use domains.objective=confusion, or use domains.t",
        ),
    ],
)
def test_what_is_wrong_with_domains_is_stated(
    tmp_path: Path, changed: dict[str, Any], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read(tickets(tmp_path, **changed), *overrides)


@pytest.mark.parametrize(("names", "message"), [("a", "a single domain, a"), ("many", "120 domains, and at most 100")])
def test_one_domain_and_too_many_are_refused(tmp_path: Path, names: str, message: str) -> None:
    file = tmp_path / "x.csv"
    shops = [f"shop {number}" if names == "many" else names for number in range(120)]
    file.write_text("text,label,shop\n" + "".join(f"text {n},{n % 2},{shop}\n" for n, shop in enumerate(shops)))
    with pytest.raises(UserError, match=message):
        read(file)


@pytest.mark.parametrize("task", ["sst2", "mnli", "stsb", "ax"])
def test_shifts_of_miniglue_change_what_they_name(task: str) -> None:
    labels = {"sst2": 2, "mnli": 3, "stsb": 1, "ax": 3}[task]
    plain = miniglue(task)
    text = next(name for name, value in next(iter(plain.values()))[0].items() if isinstance(value, str))
    for shift in ("covariate", "label", "concept"):
        shifted = with_domains(plain, [shift], task, labels)
        assert shifted == with_domains(plain, [shift], task, labels)
        rows = [pair for split in plain for pair in zip(plain[split], shifted[split], strict=True)]
        assert {new["domain"] for _, new in rows} == {*DOMAINS}
        assert all((new[text] != old[text]) == (shift == "covariate") for old, new in rows)
        changed = {new["domain"] for old, new in rows if new["label"] != old["label"]}
        assert changed == ({"forum"} if shift == "concept" else set())
        if shift == "label" and task == "sst2":
            shares = {
                name: [old["label"] for old, new in rows if new["domain"] == name and old["label"] >= 0]
                for name in DOMAINS
            }
            means = [sum(each) / len(each) for each in shares.values()]
            assert means == sorted(means) and means[0] < 0.2 < 0.8 < means[-1]


def test_without_a_shift_the_data_is_what_it_was() -> None:
    (config,) = choose(["task=sst2", "source=offline"])
    rows = read_dataset(config).splits["train"]
    assert rows.column_names == ["id", "sentence", "label"]
    assert rows["sentence"][:] == [row["sentence"] for row in miniglue("sst2")["train"]]
    (config,) = choose(["task=sst2", "source=offline", "task.domain=domain"])
    with pytest.raises(UserError, match=r"without a shift; use task.shift=\[covariate\] task.domain=domain"):
        read_dataset(config)
