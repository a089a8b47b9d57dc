"""Every record names things that exist, and the records cover what the YAML offers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import transformers
from omegaconf import OmegaConf
from peft import TaskType

from peftkit import paths
from peftkit.config import JOBS, KINDS


def imported(path: str) -> object:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_names_heads_formats_and_task_types_that_exist(kind: object) -> None:
    assert kind.heads.keys() == kind.formats.keys() == kind.task_types.keys()  # type: ignore[attr-defined]
    for head in kind.heads.values():  # type: ignore[attr-defined]
        assert callable((imported(head) if ":" in head else getattr(transformers, head)).from_pretrained)
    for name in kind.formats.values():  # type: ignore[attr-defined]
        assert isinstance(imported(f"peftkit.data.formats.{name}"), type)
    for task_type in kind.task_types.values():  # type: ignore[attr-defined]
        assert task_type is None or task_type in TaskType.__members__


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_a_job_names_an_entry_point_that_exists(job: object) -> None:
    assert callable(imported(job.entry))  # type: ignore[attr-defined]


def test_every_kind_has_a_task_and_every_task_a_kind() -> None:
    folder = paths.conf_folder() / "task"
    files = [OmegaConf.load(Path(file)) for file in folder.glob("*.yaml")]
    assert {file.kind for file in files if "kind" in file} == set(KINDS)
