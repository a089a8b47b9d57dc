"""Evaluation sets by name: files, folders and tasks whose examples must stay out of generated data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig, TaskConfig
from peftkit.config.source import fingerprint
from peftkit.data.contamination import EvaluationSets, file_texts, iter_texts
from peftkit.paths import group_files

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class EvaluationSet:
    """What was read of one evaluation set."""

    name: str
    revision: str
    rows: int
    warning: str = ""  # what was substituted for it


def load_evaluation_sets(names: list[str], config: RunConfig) -> tuple[EvaluationSets, list[EvaluationSet]]:
    """Read evaluation sets, and return them with a record of each."""
    sets, records = EvaluationSets(), []
    for name in names:
        before, path = sets.examples, Path(name)
        if path.exists():
            sets.add(name, file_texts(path))
            files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
            records.append(EvaluationSet(name, ",".join(map(fingerprint, files)), sets.examples - before))
            continue
        from peftkit.data.tables import evaluation_tables
        from peftkit.pipeline.libraries import configure_libraries

        configure_libraries(config.source)
        tables, origin = evaluation_tables(load_task_config(name, config.config_dir), config.data_root, config.source)
        for split, table in tables.items():
            sets.add(f"{name}/{split}", (list(iter_texts(dict(row))) for row in table))
        revision, warning = origin.revision or origin.name, origin.substitution(f"EVALUATION SET {name}")
        records.append(EvaluationSet(name, revision, sets.examples - before, warning))
    return sets, records


def load_task_config(name: str, config_dir: str | None = None) -> TaskConfig:
    """Return a task of conf/task, or of -cd DIR, by its name."""
    from omegaconf import OmegaConf

    files = group_files("task", config_dir)

    def load(option: str) -> DictConfig:
        part: Any = OmegaConf.load(files[option])
        bases = [load(str(base)) for base in part.pop("defaults", []) if base != "_self_"]
        whole: Any = OmegaConf.merge(*bases, part)
        return whole

    values: Any = OmegaConf.to_container(OmegaConf.create({"task": load(name)}), resolve=True)
    return TaskConfig(**values["task"])
