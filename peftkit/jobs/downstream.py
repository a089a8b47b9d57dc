"""Turn a model that went on pretraining into what a task gains by it, trained from its base and from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit import record
from peftkit.jobs import use
from peftkit.jobs.console import is_main, say
from peftkit.jobs.finetune import finetune
from peftkit.jobs.prepare import find_model
from peftkit.leaderboard.stats import task_score
from peftkit.schema import Run, UserError

OWN = ("job=", "run=")  # words that are not those of the two runs


def downstream(
    run: Run, config: dict[str, Any], overrides: list[str], recipe: str | None, begin: Callable[[Path], None] | None
) -> Path:
    """Train a task from the base of a run of language modelling and from what that run made of it.

    Both are runs as job=finetune leaves them, with one head, rate, order of rows and seed. What comes of them is
    written to the result of the run of language modelling, under language, beside what other tasks and seeds gave.

    Returns:
        The folder of the second run.

    Raises:
        UserError: `run` names no such run, its base is another than that of these words, or the labels are hidden.
    """
    folder = Path(str(run.run))
    adapted = use.trained_run(folder)
    if adapted.task.kind != "language_modeling":
        raise UserError(f"{folder} trained {adapted.task.name}, and no language model; name a run of recipe=adapt_bert")
    _check_base(run, adapted, folder)
    words = [word for word in overrides if not word.lstrip("+").startswith(OWN)]
    run, config = replace(run, job="finetune", run=None), {**config, "job": "finetune", "run": None}
    before = finetune(run, config, words, recipe, begin)
    told: Any = record.read_result(before)
    if not told["scores"]:
        raise UserError(f"task={run.task.name} hides its labels, so there is nothing to compare; name another")
    # what pools the base's vectors pools the other's: its folder does not say how they were made
    chosen: dict[str, Any] = {"checkpoint": str(_checkpoint(run, folder)), "revision": "main"}
    if told["audit"]["sources"]["model"]["pooling"] is not None:
        chosen["pooling"] = told["audit"]["sources"]["model"]["pooling"]
    after = finetune(
        replace(run, model=replace(run.model, **chosen)),
        {**config, "model": {**config["model"], **chosen}},
        [*words, *(f"model.{name}={value}" for name, value in chosen.items())],
        recipe,
        begin,
    )
    if is_main():
        task = record.run_id({**config, "seed": 0}, told["audit"]["sources"], told["run"]["setup"])
        _note(folder, f"{run.task.name}-{run.method.name}-{task}", run, before, after)
    return after


def _check_base(run: Run, adapted: Run, folder: Path) -> None:
    base, chosen = use.model_source(folder), find_model(run.model, run.source)
    if (base.name, base.revision) != (chosen.name, chosen.revision):
        source = "embedded" if base.kind == "embedded" else "hub"
        raise UserError(
            f"{folder} went on from {base.name} ({base.revision}), these words begin with {chosen.name} "
            f"({chosen.revision}); say model={adapted.model.name} model.checkpoint={adapted.model.checkpoint} "
            f"source={source}"
        )


def _checkpoint(run: Run, folder: Path) -> Path:
    """Return the folder of the whole model that a run left; an adapter is merged, once."""
    if (folder / "model").is_dir():
        return folder / "model"
    merged = folder / "merged"
    with FileLock(folder / ".merging"):
        if not (merged / "tokenizer_config.json").is_file():  # which is written last
            use.merge(replace(run, run=str(folder), output=None))
    return merged


def _note(folder: Path, name: str, run: Run, before: Path, after: Path) -> None:
    """Lay both scores into the result of the run of language modelling; two seeds may end at once."""
    ends = {}
    for end, each in (("before", before), ("after", after)):
        result: Any = record.read_result(each)
        ends[end] = task_score(result["scores"])
    with FileLock(folder / ".noting"):
        told: Any = record.read_result(folder)
        known = told["language"].setdefault("downstream", {})
        entry = known.setdefault(name, {"task": run.task.name, "method": run.method.name, "seeds": {}})
        entry["seeds"][str(run.seed)] = ends
        record.write_result(folder, told)
    say(f"{run.task.name}, {run.method.name}: {ends['before']:.3f} from the base, {ends['after']:.3f} from {folder}")
