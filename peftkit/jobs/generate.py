"""Turn seed tasks and a model into a folder of new tasks, with a record of why each was kept or thrown away."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peftkit.config import Generate, RunConfig, UserError, error_summary
from peftkit.config.source import Source, fingerprint
from peftkit.data.contamination import EvaluationSets
from peftkit.generation import dataset_statistics
from peftkit.generation.card import dataset_card, plot_similarity
from peftkit.generation.client import Budget, GenerationClient
from peftkit.generation.dataset import write_dataset
from peftkit.generation.evol_instruct import evol_instruct
from peftkit.generation.journal import Journal, ReplayedJournal
from peftkit.generation.pool import TaskPool
from peftkit.generation.self_instruct import self_instruct
from peftkit.generation.tasks import SEEDS, Task, read_tasks
from peftkit.paths import safe_name
from peftkit.pipeline.evaluation_sets import load_evaluation_sets
from peftkit.pipeline.generators import generator_device, generator_precision, load_generator, resolve_generator
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log, progress_logger

ALGORITHMS = {"self_instruct": self_instruct, "evol_instruct": evol_instruct}
ENDINGS = ("num_instructions", "max_tokens", "max_cost", "price_in", "price_out", "evolutions", "patience")
# what else does not change what is kept: a run may go on from another address, with more patience
BESIDE = (*ENDINGS, "model", "base_url", "key_env", "seeds", "decontaminate", "retries", "timeout")
WRITTEN = ("journal.jsonl", "kept.jsonl", "rejected.jsonl", "result.json")


def generate(run: RunConfig, only_looks: bool = False) -> Path:
    """Grow a pool of tasks out of seeds until the target, and leave it as a folder that `datasets` loads.

    Args:
        only_looks: take what is there, and ask for nothing.

    Raises:
        UserError: a file cannot be read, the endpoint wants something else, or another process writes the folder.
        GeneratorError: the endpoint gives no reply any more.
    """
    settings = run.generate
    assert settings is not None  # its section is in config.yaml
    model = resolve_generator(run, settings)
    seeds = read_tasks(_seeds(settings))
    sets, facts = load_evaluation_sets(settings.decontaminate, run)
    folder = _folder(run, settings, model, facts)
    if not run.force and (done := finished(folder, settings)):
        log(f"finished already: {folder}{done}")
        return folder
    if only_looks:
        raise UserError(
            f"{folder} has not all of the tasks yet, and job=plan writes none; say job=generate seed={run.seed} first"
        )
    if not is_main_process():  # under torchrun one process asks for all
        return folder
    for sentence in (model.substitution("MODEL"), *(fact["sentence"] for fact in facts)):
        if sentence:
            log(f"!! {sentence}")
    log(f"{settings.algorithm}: {len(seeds)} seeds, {model.name}, {settings.num_instructions:,} to keep -> {folder}")
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    result: dict[str, Any] = {
        "run": {"config": run.to_dict(), "overrides": list(run.overrides)},
        "audit": {
            "sources": {"model": {**asdict(model), "folder": None}},
            "seeds": {"file": settings.seeds or "peftkit", "tasks": len(seeds), **_overlapping(seeds, sets)},
            "evaluation_sets": [{key: fact[key] for key in ("name", "revision", "rows")} for fact in facts],
        },
        "meta": run_folder.meta(run.seed, generator_device(settings), generator_precision(settings), started),
    }
    with ExitStack() as stack:
        run_folder.lock(stack, folder)
        if run.force:
            for name in WRITTEN:
                (folder / name).unlink(missing_ok=True)
        run_folder.write_config(folder, run)
        try:
            _grow(stack, run, settings, model, seeds, sets, folder, result)
        except BaseException as error:
            why = {"status": "failed", "reason": error_summary(error)}
            run_folder.write_result(folder, {**result, "meta": {**result["meta"], **why}})
            raise
    return folder


def _grow(
    stack: ExitStack,
    run: RunConfig,
    settings: Generate,
    model: Source,
    seeds: list[Task],
    sets: EvaluationSets,
    folder: Path,
    result: dict[str, Any],
) -> None:
    """Replay what the folder holds, go on from there, and write the data and what is to be said of it."""
    journal = stack.enter_context(Journal(folder / "journal.jsonl"))
    kept, rejected = (stack.enter_context(ReplayedJournal(folder / f"{name}.jsonl")) for name in ("kept", "rejected"))
    if journal.rows:
        log(f"going on in {folder}: {len(kept.rows):,} kept so far")
    settings = replace(
        settings, num_instructions=max(settings.num_instructions, len(kept.rows))
    )  # none is thrown away again
    ask = GenerationClient(load_generator(settings, model, bool(journal.rows)), journal, Budget.of(settings), run.seed)
    pool = TaskPool(seeds, settings, lambda texts: _said(sets, texts), kept, rejected, _prefix(settings, seeds))
    result["ended"] = ALGORITHMS[settings.algorithm](pool, ask, progress_logger(lambda: progress(pool, ask, settings)))
    pool.sync()
    for lines in (kept, rejected):
        lines.check_end()  # type: ignore[attr-defined]
    result["counts"] = pool.counts()
    result["kept"] = dataset_statistics.dataset_statistics(pool.kept, seeds)
    result["costs"] = {
        **ask.spent(),
        "cost": ask.cost if ask.ceilings.has_prices else None,
        "shortened_prompts": ask.shortened,
    }
    result["meta"] |= {"status": "finished"}
    write_dataset(folder, pool.kept)
    plot_similarity(result["kept"]["nearest_seed"]["histogram"], folder / "similarity.png")
    run_folder.write_text(folder / "README.md", dataset_card(result))
    run_folder.write_result(folder, result)
    _tell(folder, result, settings)


def _folder(run: RunConfig, settings: Generate, model: Source, facts: list[dict[str, Any]]) -> Path:
    """Return out/generate/<algorithm>/<model>/seed-<n>-<id>: the id is of all that determines what is kept."""
    read = {key: value for key, value in asdict(settings).items() if key not in BESIDE}
    sets = sorted(str(fact["revision"]) for fact in facts)
    text = json.dumps([read, fingerprint(_seeds(settings)), sets, model.name, model.revision, run.seed], sort_keys=True)
    name = safe_name(model.name.strip("/"))
    run_id = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path(run.out, "generate", settings.algorithm, name[-60:], f"seed-{run.seed}-{run_id}")


def finished(folder: Path, settings: Generate) -> str | None:
    """Say that a folder has what is asked for, or ended as this run would; None where there is something to do."""
    if not run_folder.is_finished(folder):
        return None
    result = run_folder.read_result(folder)
    assert result is not None
    count, before = result["counts"]["kept"], result["run"]["config"]["generate"]
    if count >= settings.num_instructions:
        return f" ({count:,} tasks; generate.num_instructions={2 * count} goes on, force=true begins again)"
    if all(before[name] == getattr(settings, name) for name in ENDINGS):
        return f" ({count:,} tasks, ended by generate.{result['ended']}; raise it to go on)"
    return None


def _prefix(settings: Generate, seeds: list[Task]) -> str:
    """Return what the ids of new tasks begin with: self, or self2 where the seeds were made so themselves."""
    name = settings.algorithm.partition("_")[0]
    names = (name if number == 1 else f"{name}{number}" for number in itertools.count(1))
    return next(name for name in names if not any(seed.id.startswith(f"{name}_") for seed in seeds))


def _said(sets: EvaluationSets, texts: Any) -> str | None:
    found = sets.overlap(texts)
    return None if found is None else str(found)


def _overlapping(seeds: list[Task], sets: EvaluationSets) -> dict[str, list[str]]:
    """Return the seeds that overlap evaluation sets: they are shown to the model all the same, and so they are told."""
    found = []
    for seed in seeds:
        texts = [seed.instruction, *(text for case in seed.instances for text in (case.input, case.output))]
        if (overlap := sets.overlap(texts)) is not None:
            found.append(f"{seed.id}: {overlap}")
    if found:
        log(f"!! {len(found)} of {len(seeds)} seeds overlap evaluation sets, {found[0]}; all are in result.json")
    return {"overlaps": found}


def _seeds(settings: Generate) -> Path:
    return Path(settings.seeds) if settings.seeds else SEEDS


def progress(pool: TaskPool, ask: GenerationClient, settings: Generate) -> str:
    """Say how many are kept, how many were rejected and why, and what it cost so far."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in pool.reasons.most_common(4))
    money = f", cost {ask.cost:.4f}" if ask.ceilings.has_prices else ""
    return (
        f"{len(pool.kept):,} of {settings.num_instructions:,} kept, {sum(pool.reasons.values()):,} rejected ({reasons}), "
        f"{ask.requests:,} requests, {ask.tokens_in + ask.tokens_out:,} tokens{money}"
    )


def _tell(folder: Path, result: Mapping[str, Any], settings: Generate) -> None:
    counts, costs = result["counts"], result["costs"]
    if result["ended"] != "target":
        log(
            f"!! {counts['kept']:,} of {settings.num_instructions:,}: it ended by generate.{result['ended']}; raise it to go on"
        )
    print(f"{counts['kept']:,} tasks kept, {result['kept']['instances']:,} instances; {counts['rejected']:,} rejected:")
    for why, count in counts["reasons"].items():
        print(f"  {count:>7,}  {why}")
    money = "" if costs["cost"] is None else f", cost {costs['cost']:.4f}"
    print(f"{costs['requests']:,} requests, {costs['tokens_in']:,} tokens read, {costs['tokens_out']:,} written{money}")
    log(f"-> {folder}; its card: {folder / 'README.md'}")
    if sentence := Source(**result["audit"]["sources"]["model"]).substitution("MODEL"):
        log(f"!! {sentence}")
