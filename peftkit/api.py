"""Turn the command line's words into calls from Python: `finetune("task=sst2", "method=ia3")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.cli import choose


def finetune(*overrides: str) -> list[Path]:
    """Train as `python -m peftkit ...` does and return the run folders, one a run of the sweep.

    Raises:
        UserError: anything is wrong with the overrides; nothing was loaded or trained.
    """
    return [folder for folder in _run("finetune", overrides) if folder is not None]


def evaluate(run: str | Path, *overrides: str) -> Path:
    """Score a run folder, on another task where an override names one, and return the folder."""
    (folder,) = _run("evaluate", (f"run={run}", *overrides))
    assert folder is not None
    return folder


def predict(run: str | Path | Sequence[str | Path], input: str | Path, *overrides: str) -> None:
    """Label a file's rows, or one text; with several runs, each row by the run that its column `task` names."""
    several = not isinstance(run, (str, Path))
    folders = f"runs=[{','.join(map(str, run))}]" if several else f"run={run}"  # type: ignore[arg-type]
    _run("predict", (folders, f"input='{input}'", *overrides))


def embed(input: str | Path, output: str | Path, *overrides: str) -> None:
    """Write the vectors of a file's rows, of a checkpoint (`model=minilm`) or of a run (`run=DIR`)."""
    _run("embed", (f"input='{input}'", f"output={output}", *overrides))


def merge(run: str | Path, *overrides: str) -> Path:
    """Fold a run's adapter into its base and return the run folder."""
    (folder,) = _run("merge", (f"run={run}", *overrides))
    assert folder is not None
    return folder


def plan(*overrides: str) -> None:
    """Print what a run would train, cost and need, before any step."""
    _run("plan", overrides)


def load(run: str | Path) -> tuple[Any, Any]:
    """Return the trained model, adapter and head included, and its tokenizer."""
    from peftkit.jobs import extend
    from peftkit.pipeline import inference
    from peftkit.pipeline.libraries import configure_libraries

    configure_libraries("auto")
    return extend.load_extended(Path(run)) if extend.is_vocabulary(Path(run)) else inference.load_run(run)


def _run(job: str, overrides: tuple[str, ...]) -> list[Path | None]:
    from peftkit import jobs

    return [jobs.run(config) for config in choose([f"job={job}", *overrides])]
