"""Turn a model that went on pretraining into what a task gains by it, trained from its base and from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit.config import RunConfig, UserError
from peftkit.jobs.finetune import finetune
from peftkit.jobs.merge import merge
from peftkit.jobs.search import alone
from peftkit.leaderboard.stats import task_score
from peftkit.pipeline import inference
from peftkit.pipeline.build import find_model
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log

OWN = ("job=", "run=")  # words that are not those of the two runs


def downstream(
    run: RunConfig,
    config: dict[str, Any],
    overrides: list[str],
    recipe: str | None,
    begin: Callable[[Path], None] | None,
) -> Path:
    """Train a task from the base of a run of language modelling and from what that run made of it.

    Both are runs as job=finetune leaves them, with the same seed and settings; where rates are searched, each finds its
    own. Masked language modelling leaves BERT's pooler behind: where [CLS] is pooled, the second begins with a fresh
    one. What comes of both is written to the result of the run of language modelling, under language, beside what
    other tasks and seeds gave.

    Returns:
        The folder of the second run.

    Raises:
        UserError: `run` names no such run or one that cannot be merged, its base is another than that of these words,
            or the labels are hidden.
    """
    folder = Path(str(run.run))
    adapted = inference.trained_run(folder)
    if adapted.task.kind != "language_modeling" or adapted.trial:
        what = "is a trial" if adapted.trial else f"trained {adapted.task.name}, and no language model"
        raise UserError(f"{folder} {what}; name a finished run of recipe=adapt_bert, adapt_gpt2 or adapt_t5")
    _check_base(run, adapted, folder)
    checkpoint = _checkpoint(run, folder)
    words = [word for word in overrides if not word.lstrip("+").startswith(OWN)]
    run, config = replace(run, job="finetune", run=None), {**config, "job": "finetune", "run": None}
    with alone(run):  # others may be held against the same base
        before = finetune(run, config, words, recipe, begin)
    told: Any = run_folder.read_result(before)
    if not told["scores"]:
        raise UserError(f"task={run.task.name} hides its labels, so there is nothing to compare; name another")
    chosen: dict[str, Any] = {"checkpoint": str(checkpoint), "revision": "main"}
    if run.model.family == "encoder" and run.task.kind in ("classification", "regression"):
        # what pools the base's states pools the other's: its folder does not say how they were made
        chosen["pooling"] = told["audit"]["sources"]["model"]["pooling"]
    after = finetune(
        replace(run, model=replace(run.model, **chosen)),
        {**config, "model": {**config["model"], **chosen}},
        [*words, *(f"model.{name}={value}" for name, value in chosen.items())],
        recipe,
        begin,
    )
    if is_main_process():
        settings = run_folder.run_id(replace(run, seed=0), told["audit"]["sources"], told["run"]["setup"])
        _note(folder, f"{run.task.name}-{run.method.name}-{settings}", run, before, after)
    return after


def _check_base(run: RunConfig, adapted: RunConfig, folder: Path) -> None:
    base, chosen = inference.model_source(folder), find_model(run.model, run.source)
    is_same = base.revision == chosen.revision and (base.name == chosen.name or base.kind == chosen.kind == "folder")
    if is_same and adapted.model.keep_layers == run.model.keep_layers:
        return
    words = [f"model={adapted.model.name}", f"model.checkpoint={adapted.model.checkpoint}"]
    if base.kind in ("hub", "cache"):
        words.append(f"model.revision={base.revision}")
    if base.kind == "offline":
        words.append("source=offline")
    if adapted.model.keep_layers is not None:
        words.append(f"model.keep_layers=[{','.join(map(str, adapted.model.keep_layers))}]")
    raise UserError(
        f"{folder} went on from another base, {base.name} ({base.revision}), than these words begin with, "
        f"{chosen.name} ({chosen.revision}); say {' '.join(words)}"
    )


def _checkpoint(run: RunConfig, folder: Path) -> Path:
    """Return the folder of the whole model that a run left; an adapter is merged, once."""
    if (folder / "model").is_dir():
        return folder / "model"
    merged, part = folder / "merged", folder / ".merged.part"
    with FileLock(folder / ".merging"):
        if not (merged / "tokenizer.json").is_file():
            shutil.rmtree(part, ignore_errors=True)
            try:
                merge(replace(run, run=str(folder), output=str(part)))
            except UserError as error:
                raise UserError(f"{folder} holds an adapter, which is to be merged first: {error}") from error
            shutil.rmtree(merged, ignore_errors=True)
            part.replace(merged)
    return merged


def _note(folder: Path, name: str, run: RunConfig, before: Path, after: Path) -> None:
    """Lay both scores into the result of the run of language modelling; two seeds may end at once."""
    told: dict[str, Any] = {end: run_folder.read_result(each) for end, each in (("before", before), ("after", after))}
    ends = {end: task_score(result["scores"]) for end, result in told.items()}
    about = {
        "task": run.task.name,
        "method": run.method.name,
        "learning_rate": "rates of their own"
        if run.search.lr_multipliers
        else f"{float(run.train['learning_rate']):g}",
        "rows": told["before"]["audit"]["rows"].get(str(run.task.splits["train"])),
        "fresh": told["after"]["audit"]["fresh"],
    }

    def change(result: dict[str, Any]) -> None:
        entry = result["language"].setdefault("downstream", {}).setdefault(name, {**about, "seeds": {}})
        entry["seeds"][str(run.seed)] = ends

    run_folder.amend_result(folder, change)
    log(f"{run.task.name}, {run.method.name}: {ends['before']:.3f} from the base, {ends['after']:.3f} from {folder}")
