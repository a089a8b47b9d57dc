"""job=generate: instruction data from seed tasks, as a folder that `datasets` loads, with every rejection recorded."""

from __future__ import annotations

import itertools
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.config import Generate, RunConfig, UserError
from peftkit.config.source import Source, fingerprint
from peftkit.data.contamination import EvaluationSets
from peftkit.generation.client import GenerationClient, Journal, describe_costs
from peftkit.generation.dataset_card import dataset_card, dataset_statistics, plot_similarity
from peftkit.generation.evol_instruct import evol_instruct
from peftkit.generation.instruction_tasks import SEEDS, InstructionTask, read_tasks, write_dataset
from peftkit.generation.pool import TaskPool, fill_pool
from peftkit.generation.self_instruct import self_instruct
from peftkit.paths import safe_name
from peftkit.pipeline.generation import EvaluationSet, generation_session, load_evaluation_sets, resolve_generator
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log, progress_logger

ALGORITHMS = {"self_instruct": self_instruct, "evol_instruct": evol_instruct}
ENDINGS = ("num_instructions", "max_tokens", "max_cost", "price_in", "price_out", "evolutions", "patience")
# what else does not determine the data: a run may continue with another address or more patience
INCIDENTAL = (*ENDINGS, "model", "base_url", "key_env", "seeds", "decontaminate", "retries", "timeout")
FILES = ("journal.jsonl", "kept.jsonl", "rejected.jsonl", "result.json")


@dataclass(frozen=True)
class GenerationInputs:
    """What determines the data beside the settings, and the folder that is named after all of it."""

    model: Source
    seeds: list[InstructionTask]
    sets: EvaluationSets
    records: list[EvaluationSet]
    folder: Path


def generate(config: RunConfig, may_generate: bool = True) -> Path:
    """Generate tasks from seeds until there are `generate.num_instructions`; return the folder.

    Args:
        may_generate: False to return a finished folder, or else fail.

    Raises:
        UserError: a file cannot be read, the endpoint refuses, or another process writes the folder.
        GeneratorError: the endpoint no longer replies.
    """
    settings, inputs = config.generate, _inputs(config)
    folder, model = inputs.folder, inputs.model
    if not config.force and (note := finished_note(folder, settings)) is not None:
        log(f"finished already: {folder}{note}")
        return folder
    if not may_generate:
        raise UserError(f"{folder}: its tasks are not generated yet; run job=generate seed={config.seed} first")
    if not is_main_process():  # under torchrun one process generates
        return folder
    warnings = [model.substitution("MODEL"), *(record.warning for record in inputs.records)]
    for warning in filter(None, warnings):
        log(f"!! {warning}")
    log(
        f"{settings.algorithm}: {len(inputs.seeds)} seeds, {model.name}, {settings.num_instructions:,} tasks to "
        f"generate -> {folder}"
    )
    sets = [{key: getattr(record, key) for key in ("name", "revision", "rows")} for record in inputs.records]
    seeds = {"file": settings.seeds or "peftkit", "tasks": len(inputs.seeds), "overlaps": _seed_overlaps(inputs)}
    sources = {"model": {**asdict(model), "folder": None}}
    result: dict[str, Any] = {"audit": {"sources": sources, "seeds": seeds, "evaluation_sets": sets}}
    with generation_session(config, model, folder, FILES, result) as client:
        run_folder.write_config(folder, config)
        _fill(inputs, settings, client, result)
    _report(folder, result, settings)
    if warnings[0]:
        log(f"!! {warnings[0]}")
    return folder


def finished_note(folder: Path, settings: Generate) -> str | None:
    """Return how to continue a folder that has all tasks, or ended as this run would; None where tasks are missing."""
    if not run_folder.is_finished(folder):
        return None
    result = run_folder.read_result(folder)
    assert result is not None
    count, before = result["counts"]["kept"], result["run"]["config"]["generate"]
    if count >= settings.num_instructions:
        return f" ({count:,} tasks; generate.num_instructions={2 * count} continues, force=true starts again)"
    if all(before[name] == getattr(settings, name) for name in ENDINGS):
        return f" ({count:,} tasks, generate.{result['ended']} ended it; raise it to continue)"
    return None


def _inputs(config: RunConfig) -> GenerationInputs:
    """Read the seeds and evaluation sets; the folder's id is a hash of all that determines the data."""
    settings, model = config.generate, resolve_generator(config)
    file = Path(settings.seeds) if settings.seeds else SEEDS
    seeds = read_tasks(file)
    sets, records = load_evaluation_sets(settings.decontaminate, config)
    determining = {key: value for key, value in asdict(settings).items() if key not in INCIDENTAL}
    revisions = sorted(record.revision for record in records)
    run_id = run_folder.digest([determining, fingerprint(file), revisions, model.name, model.revision, config.seed])
    name = safe_name(model.name.strip("/"))[-60:]
    folder = Path(config.out, "generate", settings.algorithm, name, f"seed-{config.seed}-{run_id}")
    return GenerationInputs(model, seeds, sets, records, folder)


def _fill(inputs: GenerationInputs, settings: Generate, client: GenerationClient, result: dict[str, Any]) -> None:
    """Replay what the folder has, continue from there, and write the dataset and its statistics."""
    folder, seeds = inputs.folder, inputs.seeds
    with ExitStack() as stack:
        kept, rejected = (stack.enter_context(closing(Journal(folder / name, is_replayed=True))) for name in FILES[1:3])
        # a lower number than before removes no task
        settings = replace(settings, num_instructions=max(settings.num_instructions, len(kept.rows)))
        pool = TaskPool(seeds, settings, inputs.sets.overlap, kept, rejected, _id_prefix(settings, seeds))
        log_progress = progress_logger(lambda: _progress(pool, client))
        result["ended"] = fill_pool(pool, client, ALGORITHMS[settings.algorithm], log_progress)
        pool.sync()
        for file in (kept, rejected):
            file.check_end()
    statistics = dataset_statistics(pool.kept, seeds)
    result |= {"counts": pool.counts(), "kept": statistics, "costs": client.costs()}
    write_dataset(folder, pool.kept)
    plot_similarity(statistics["nearest_seed"]["histogram"], folder / "similarity.png")
    run_folder.write_text(folder / "README.md", dataset_card(result))


def _id_prefix(settings: Generate, seeds: list[InstructionTask]) -> str:
    """Return the prefix of new ids: self, or self2 where the seeds have that prefix already."""
    name = settings.algorithm.partition("_")[0]
    names = (name if number == 1 else f"{name}{number}" for number in itertools.count(1))
    return next(name for name in names if not any(seed.id.startswith(f"{name}_") for seed in seeds))


def _seed_overlaps(inputs: GenerationInputs) -> list[str]:
    """Return the seeds that overlap evaluation sets: they are used all the same, and reported."""
    overlaps = []
    for seed in inputs.seeds:
        texts = [seed.instruction, *(text for case in seed.instances for text in (case.input, case.output))]
        if (overlap := inputs.sets.overlap(texts)) is not None:
            overlaps.append(f"{seed.id}: {overlap}")
    if overlaps:
        log(
            f"!! {len(overlaps)} of {len(inputs.seeds)} seeds overlap evaluation sets, the first: {overlaps[0]}; "
            "result.json lists all"
        )
    return overlaps


def _progress(pool: TaskPool, client: GenerationClient) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in pool.reasons.most_common(4))
    return (
        f"{len(pool.kept):,} of {pool.settings.num_instructions:,} kept, {pool.reasons.total():,} rejected "
        f"({reasons}), {describe_costs(client.costs())}"
    )


def _report(folder: Path, result: dict[str, Any], settings: Generate) -> None:
    counts = result["counts"]
    if result["ended"] != "num_instructions":
        log(
            f"!! {counts['kept']:,} of {settings.num_instructions:,} tasks: generate.{result['ended']} ended it; "
            "raise it to continue"
        )
    print(f"{counts['kept']:,} tasks kept, {result['kept']['instances']:,} instances; {counts['rejected']:,} rejected:")
    for reason, count in counts["reasons"].items():
        print(f"  {count:>7,}  {reason}")
    print(describe_costs(result["costs"]))
    log(f"-> {folder}; dataset card: {folder / 'README.md'}")
