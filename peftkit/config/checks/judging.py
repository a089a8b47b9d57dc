"""Turn the runs that are to be judged into what keeps them from it, before anything is asked or loaded."""

from __future__ import annotations

import json
from pathlib import Path

from peftkit.config.kinds import generates_text
from peftkit.config.run import RunConfig, TaskConfig


def judging(run: RunConfig) -> list[str]:
    """Return a sentence for each."""
    if run.job != "judge":
        return []
    if run.run is not None and run.runs is not None:
        return ["run= is judged against its references, runs= against each other; drop one of the two"]
    if run.run is None and (run.runs is None or len(run.runs) != 2):
        return ["job=judge needs answers; say run=DIR, against its references, or runs=[A,B], against each other"]
    folders = [run.run] if run.run is not None else run.runs or []
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        return [f"runs= names {folders[0]} twice; say run={folders[0]} to hold it against its references"]
    return [sentence for folder in folders for sentence in _answers(Path(folder))]


def _answers(folder: Path) -> list[str]:
    """Complain about a run without written answers; one that is no finished run is told elsewhere."""
    try:
        config = json.loads((folder / "result.json").read_text())["run"]["config"]
        task, is_trial = TaskConfig(**config["task"]), config.get("trial")
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if is_trial:
        return [f"{folder} is a trial, scored on training rows; name a run"]
    if not generates_text(task):
        what = "causal_lm without a label" if task.kind == "causal_lm" else task.kind
        return [f"{folder} is a run of {what}, which writes no answers; name one of task=seq2seq, or of another text"]
    if not (folder / "predictions.parquet").is_file():
        return [f"{folder} holds no predictions.parquet, its answers; say force=true to train it again"]
    return []
