"""The tasks of tasks=[...] are composed with the settings of the run, from the command line and from Python."""

from __future__ import annotations

import json

import pytest
from helpers.commands import apply_fix, check

from peftkit.cli.compose import build_run, open_composer, without_hydra
from peftkit.cli.overrides import normalize_override
from peftkit.cli.values import compose_values
from peftkit.config import RunConfig, UserError
from peftkit.results.run_folder import run_id


def composed(*typed: str) -> RunConfig:
    overrides = [normalize_override(each) for each in typed]
    with open_composer(None) as composer:
        return build_run(without_hydra(composer(overrides)), None, overrides)


def test_each_task_has_its_own_settings_and_those_of_the_run() -> None:
    run = composed("tasks=[cola,stsb,rte]", "task.max_train_samples=100", "task.splits.validation=[dev]")
    assert run.tasks is not None
    assert [task.name for task in run.tasks] == ["cola", "stsb", "rte"]
    assert [task.kind for task in run.tasks] == ["classification", "regression", "classification"]
    assert [task.text for task in run.tasks] == [["sentence"], ["sentence1", "sentence2"], ["sentence1", "sentence2"]]
    assert {task.max_train_samples for task in run.tasks} == {100}
    assert all(task.splits["validation"] == ["dev"] for task in run.tasks)
    assert run.task.name == "multi-cola-stsb-rte" and run.task.suite == "glue"
    assert run.is_multitask and not composed("task=cola").is_multitask


def test_a_task_alone_is_composed_as_by_its_name() -> None:
    run = composed("tasks=[cola,conll2003]", "model=minilm", "task.max_length=64")
    assert run.tasks is not None and run.task.suite == "multi"  # of two suites
    assert run.tasks == [
        composed(f"task={name}", "model=minilm", "task.max_length=64").task for name in ("cola", "conll2003")
    ]


def test_the_config_survives_json_and_that_of_one_task_keeps_its_id() -> None:
    run = composed("tasks=[cola,rte]")
    assert RunConfig.from_config(json.loads(json.dumps(run.to_dict())), None, run.overrides) == run
    single = composed("task=cola").to_dict()
    earlier = {name: value for name, value in single.items() if name != "tasks"}
    assert run_id(RunConfig.from_config(earlier), {}, {}) == run_id(composed("task=cola"), {}, {})


def test_python_composes_what_the_command_line_does() -> None:
    with open_composer(None) as composer:
        values = {"tasks": ["cola", "rte"], "task": {"max_train_samples": 9}, "model": "minilm"}
        found = compose_values(composer, values)
        with pytest.raises(UserError, match=r"tasks=\[cola,mprc\]: unknown task mprc"):
            compose_values(composer, {"tasks": ["cola", "mprc"]})
    typed = composed("tasks=[cola,rte]", "task.max_train_samples=9", "model=minilm")
    assert found.to_dict() == typed.to_dict()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tasks=cola", "tasks=cola: expected a list of names; use tasks=[cola]"),
        ("tasks=[]", "tasks=[]: expected a list of names; use tasks=[cola,rte]"),
        ("tasks=[1,2]", "tasks=[1,2]: expected a list of names"),
        ("tasks=[cola]", "tasks=[cola] names one task; use task=cola and drop tasks"),
        ("tasks=[cola,cola]", "tasks=[cola,cola] names a task twice; use task=cola and drop tasks"),
        ("tasks=[cola,rte,cola]", "names a task twice; use tasks=[cola,rte]"),
        ("tasks=[cola,mprc]", "tasks=[cola,mprc]: unknown task mprc; did you mean tasks=[cola,mrpc]?"),
        ("tasks=[cola,rte] task=sst2", "either task= or tasks=[cola,rte]; drop task, or use tasks=null"),
        ("tasks=[cola,rte] task.metrics=[f1,acuracy]", "task.metrics=[acuracy]: unknown metric"),
        ("tasks=[cola,conll2003] model=t5", "conll2003: model=t5 (seq2seq) has no head for task=conll2003"),
        ("tasks=[cola,rte] task.name=a", "2 tasks have the name a"),
        ("tasks=[cola,stsb] task.stride=3", "task.stride"),
        ("job=embed tasks=[cola,rte] input=a output=b.npy", "tasks= is not for job=embed"),
        ("task=[cola,rte]", "task=[cola,rte]: expected one task; use tasks=[cola,rte], or -m task=cola,rte"),
    ],
)
def test_wrong_tasks_are_refused_with_what_to_type(typed: str, message: str) -> None:
    errors = check(typed.split())
    assert any(message in error for error in errors), errors
    assert len({*errors}) == len(errors)
    for error in errors:
        for fix in getattr(error, "fix", ()):
            if not fix.startswith("-m"):
                assert error not in check(apply_fix(typed.split(), fix)), fix
