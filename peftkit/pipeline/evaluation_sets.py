"""Turn names of files, folders and tasks into the evaluation sets whose rows must stay out of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig, TaskConfig
from peftkit.config.source import fingerprint
from peftkit.data.contamination import EvaluationSets, file_texts, iter_texts
from peftkit.paths import conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig


def load_evaluation_sets(names: list[str], run: RunConfig) -> tuple[EvaluationSets, list[dict[str, Any]]]:
    """Read evaluation sets; return them, and of each its name, revision and rows, and what stands in for it."""
    sets, facts = EvaluationSets(), []
    for name in names:
        before, sentence = sets.rows, ""
        if Path(name).exists():
            sets.add(name, file_texts(Path(name)))
            revision: str | None = _revision(Path(name))
        else:
            from peftkit.data.datasets import evaluation_tables
            from peftkit.pipeline.libraries import configure_libraries

            configure_libraries(run.source)
            tables, origin = evaluation_tables(load_task_config(name), run.data_root, run.source)
            for split, table in tables.items():
                sets.add(f"{name}/{split}", (list(iter_texts(dict(row))) for row in table))
            revision = origin.revision or origin.name
            if origin.substituted_for:
                sentence = f"EVALUATION SET: {origin.name} (offline) stands in for {origin.substituted_for}'s {name}"
        facts.append({"name": name, "revision": revision, "rows": sets.rows - before, "sentence": sentence})
    return sets, facts


def load_task_config(name: str) -> TaskConfig:
    """Return a task of conf/task by its name."""
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.create({"task": _part(name)}), resolve=True)
    return TaskConfig(**found["task"])


def _part(name: str) -> DictConfig:
    """Read a part with those that it is laid over."""
    from omegaconf import DictConfig, OmegaConf

    part = OmegaConf.load(conf_folder() / "task" / f"{name}.yaml")
    assert isinstance(part, DictConfig)
    below = [_part(str(base)) for base in part.pop("defaults", []) if base != "_self_"]
    whole = OmegaConf.merge(*below, part)
    assert isinstance(whole, DictConfig)
    return whole


def _revision(path: Path) -> str:
    return ",".join(
        fingerprint(file) for file in ([path] if path.is_file() else sorted(path.rglob("*"))) if file.is_file()
    )
