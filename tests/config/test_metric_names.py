"""The names of metrics are read from source, and fit the kinds of task."""

from __future__ import annotations

import pytest
from helpers.commands import check

from peftkit.config.kinds import KINDS
from peftkit.config.metric_names import metric_inputs, metrics_for
from peftkit.metrics import METRICS


def test_the_source_names_every_registered_metric() -> None:
    assert metric_inputs() == {name: metric.input for name, metric in METRICS.items()}


def test_every_kind_has_metrics_that_exist() -> None:
    for kind in KINDS.values():
        assert {*kind.metrics} <= METRICS.keys(), kind.name
    assert "rouge_l" in metrics_for(KINDS["question_answering"])
    assert "mean_squared_error" not in metrics_for(KINDS["classification"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acuracy", "unknown metric of task.kind=classification; did you mean task.metrics=[accuracy]?"),
        ("pearson", "unknown metric of task.kind=classification"),
        ("evaluate:someone/metric", "would run code that evaluate's authors did not publish"),
        ("evaluate:./metric.py", "would run code that evaluate's authors did not publish"),
        ("'evaluate:'", "expected a name of evaluate"),
    ],
)
def test_an_unfit_metric_is_refused(name: str, message: str) -> None:
    found = check(["recipe=lora_glue", "task=rte", f"task.metrics=[{name}]"])
    assert any(message in error for error in found), found


def test_a_metric_of_evaluate_is_accepted() -> None:
    assert check(["recipe=lora_glue", "task=rte", "task.metrics=[accuracy,evaluate:recall,evaluate:mae:lower]"]) == []
