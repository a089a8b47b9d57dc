"""job=generate: instruction data from seed tasks, as a folder that `datasets` loads, with all rejections recorded.

A training run whose dataset is generated (task.dataset=self_instruct) runs this job first.
"""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peftkit.config import Generate, Refusal, RunConfig, UserError
from peftkit.config.console import log
from peftkit.config.progress import stage
from peftkit.config.source import Source, fingerprint
from peftkit.generation.client import GenerationClient, Journal, describe_costs
from peftkit.generation.contamination import EvaluationSets
from peftkit.generation.dataset_card import dataset_card, dataset_statistics, plot_similarity
from peftkit.generation.evol_instruct import evol_instruct
from peftkit.generation.instruction_tasks import SEEDS, InstructionTask, read_tasks, write_dataset
from peftkit.generation.pool import TaskPool, fill_pool
from peftkit.generation.self_instruct import self_instruct
from peftkit.paths import safe_name
from peftkit.pipeline.generation import EvaluationSet, generation_session, load_evaluation_sets, resolve_generator
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder
from peftkit.results.run_result import RunResult

ALGORITHMS = {"self_instruct": self_instruct, "evol_instruct": evol_instruct}
STOP_SETTINGS = ("num_instructions", "max_tokens", "max_cost", "price_in", "price_out", "evolutions", "patience")
# settings that are not part of the id: an interrupted run may continue with another address or more patience
NOT_IN_ID = (*STOP_SETTINGS, "model", "base_url", "key_env", "seeds", "decontaminate", "retries", "timeout")
GENERATED_FILES = ("journal.jsonl", "kept.jsonl", "rejected.jsonl", "result.json")


DATA_SEED = 0  # of the data of training runs; runs with other seeds train on the same data
DATA_OVERRIDES = ("recipe=", "generate.", "source=", "data_root=", "out=")  # overrides that determine the data


def generate(config: RunConfig, may_generate: bool = True) -> Path:
    """Generate tasks from seeds until there are `generate.num_instructions`; return the folder.

    Args:
        may_generate: False to fail if the folder is not finished.

    Raises:
        UserError: a file cannot be read, the endpoint refuses, or another process writes the folder.
        GeneratorError: the endpoint no longer replies.
    """
    settings, model = config.generate, resolve_generator(config)
    file = Path(settings.seeds) if settings.seeds else SEEDS
    seeds = read_tasks(file)
    sets, records = load_evaluation_sets(settings.decontaminate, config)
    folder = _folder(config, model, file, records)
    with locked_folder(folder) if may_generate else nullcontext():
        if not config.force and (note := finished_note(folder, settings)) is not None:
            log(f"finished already: {folder}{note}")
            return folder
        if not may_generate:
            raise UserError(f"{folder}: its tasks are not generated yet; run job=generate seed={config.seed} first")
        _generate(config, model, seeds, (sets, records), folder)
    return folder


def _generate(
    config: RunConfig,
    model: Source,
    seeds: list[InstructionTask],
    evaluation: tuple[EvaluationSets, list[EvaluationSet]],
    folder: Path,
) -> None:
    """Generate into a folder that is locked."""
    settings, (sets, records) = config.generate, evaluation
    substitution = model.substitution("MODEL")
    for warning in filter(None, (substitution, *(record.warning for record in records))):
        log(f"!! {warning}")
    log(
        f"{settings.algorithm}: {len(seeds)} seeds, {model.name}, {settings.num_instructions:,} tasks to generate -> "
        f"{folder}"
    )
    result: dict[str, Any] = {
        "audit": {
            "sources": {"model": {**asdict(model), "folder": None}},
            "seeds": {"file": settings.seeds or "peftkit", "tasks": len(seeds), "overlaps": _overlaps(seeds, sets)},
            "evaluation_sets": [{"name": each.name, "revision": each.revision, "rows": each.rows} for each in records],
        }
    }
    with generation_session(config, model, folder, GENERATED_FILES, result) as client:
        run_folder.write_config(folder, config)
        _fill(folder, settings, seeds, sets, client, result)
    _report(folder, result, settings)
    if substitution:
        log(f"!! {substitution}")


def finished_note(folder: Path, settings: Generate) -> str | None:
    """Return how to continue a folder that has all tasks or reached the same limits; None if tasks are missing."""
    if not run_folder.is_finished(folder):
        return None
    result = RunResult(folder).record
    count, before = result["counts"]["kept"], result["run"]["config"]["generate"]
    if count >= settings.num_instructions:
        return f" ({count:,} tasks; generate.num_instructions={2 * count} continues, force=true starts again)"
    if all(before[name] == getattr(settings, name) for name in STOP_SETTINGS):
        return f" ({count:,} tasks, stopped by generate.{result['ended']}; raise it to continue)"
    return None


def _folder(config: RunConfig, model: Source, seeds: Path, sets: Sequence[EvaluationSet]) -> Path:
    """Return out/generate/<algorithm>/<model>/seed-<n>-<id>, where the id is a hash of what determines the data."""
    settings = config.generate
    determining = {key: value for key, value in asdict(settings).items() if key not in NOT_IN_ID}
    if not settings.generation:  # as in folders of earlier versions
        del determining["generation"]
    contents = [fingerprint(seeds), sorted(each.revision for each in sets), model.name, model.revision, config.seed]
    name = safe_name(model.name.strip("/"))[-60:], f"seed-{config.seed}-{run_folder.digest([determining, *contents])}"
    return Path(config.out, "generate", settings.algorithm, *name)


def _fill(
    folder: Path,
    settings: Generate,
    seeds: list[InstructionTask],
    sets: EvaluationSets,
    client: GenerationClient,
    result: dict[str, Any],
) -> None:
    """Replay the journal of the folder, continue from there, and write the dataset and its statistics."""
    with ExitStack() as stack:
        kept, rejected = (
            stack.enter_context(closing(Journal(folder / name, is_replayed=True))) for name in GENERATED_FILES[1:3]
        )
        # tasks are kept if a later command requests fewer
        settings = replace(settings, num_instructions=max(settings.num_instructions, len(kept.rows)))
        pool = TaskPool(seeds, settings, sets.overlap, kept, rejected, _id_prefix(settings, seeds))
        with stage(settings.algorithm, settings.num_instructions, "task") as progress:

            def show_counts() -> None:
                progress.done, progress.note = len(pool.kept), _describe_counts(pool, client)

            pool.show_progress = show_counts
            result["ended"] = fill_pool(pool, client, ALGORITHMS[settings.algorithm])
        pool.sync()
        for file in (kept, rejected):
            file.check_end()
    statistics = dataset_statistics(pool.kept, seeds)
    result |= {"counts": pool.counts(), "kept": statistics, "costs": client.costs()}
    write_dataset(folder, pool.kept)
    plot_similarity(statistics["nearest_seed"]["histogram"], folder / "similarity.png")
    run_folder.write_text(folder / "README.md", dataset_card(result))


def _id_prefix(settings: Generate, seeds: list[InstructionTask]) -> str:
    """Return the prefix of new ids: self, or self2 if ids of the seeds have that prefix."""
    name = settings.algorithm.partition("_")[0]
    names = (name if number == 1 else f"{name}{number}" for number in itertools.count(1))
    return next(name for name in names if not any(seed.id.startswith(f"{name}_") for seed in seeds))


def _overlaps(seeds: Sequence[InstructionTask], sets: EvaluationSets) -> list[str]:
    """Return and report the seeds that overlap evaluation sets; they are used nevertheless."""
    texts = [
        (seed.id, [seed.instruction, *(text for case in seed.instances for text in (case.input, case.output))])
        for seed in seeds
    ]
    overlaps = [f"{name}: {overlap}" for name, parts in texts if (overlap := sets.overlap(parts)) is not None]
    if overlaps:
        log(
            f"!! {len(overlaps)} of {len(seeds)} seeds overlap evaluation sets, the first: {overlaps[0]}; "
            "result.json lists all"
        )
    return overlaps


def _describe_counts(pool: TaskPool, client: GenerationClient) -> str:
    reasons = (f"{reason} {count:,}" for reason, count in pool.reasons.most_common(4))
    return f"{pool.reasons.total():,} rejected ({', '.join(reasons)}), {describe_costs(client.costs())}"


def _report(folder: Path, result: dict[str, Any], settings: Generate) -> None:
    counts = result["counts"]
    if result["ended"] != "num_instructions":
        log(
            f"!! {counts['kept']:,} of {settings.num_instructions:,} tasks: stopped by generate.{result['ended']}; "
            "raise it to continue"
        )
    print(
        f"{counts['kept']:,} tasks kept, {result['kept']['instances']:,} instances; {counts['rejected']:,} rejected:",
        *(f"  {count:>7,}  {reason}" for reason, count in counts["reasons"].items()),
        describe_costs(result["costs"]),
        sep="\n",
    )
    log(f"-> {folder}; dataset card: {folder / 'README.md'}")


def with_generated_data(config: RunConfig) -> RunConfig:
    """Return the config with a folder of generated tasks as its dataset.

    An unfinished folder is continued. Under torchrun the main process generates; commands that need the same data wait
    for each other.

    Raises:
        UserError: no task was kept, the folder has more tasks than requested, or its tasks are missing and job=plan
            does not generate them.
    """
    from peftkit.pipeline.main_process import follow_main_process  # imports torch

    settings = config.generate
    # by default the model of the run generates
    relevant = DATA_OVERRIDES if settings.model is not None else (*DATA_OVERRIDES, "model=", "model.")
    overrides = ("job=generate", *(override for override in config.overrides if override.startswith(relevant)))
    generating = replace(config, job="generate", seed=DATA_SEED, force=False, overrides=overrides)
    folder = Path(follow_main_process("generate", lambda: str(generate(generating, may_generate=config.job != "plan"))))
    result = RunResult(folder).record
    _check_count(folder, result, settings)
    if not result["counts"]["kept"]:
        raise UserError(
            f"{folder}: no task of {result['audit']['sources']['model']['name']} was kept, rejected.jsonl has the "
            "reasons; set generate.model=ID_OR_DIR or generate.generator=endpoint to use another generator"
        )
    return replace(config, task=replace(config.task, dataset=str(folder)), data_root=None)


def _check_count(folder: Path, result: Mapping[str, Any], settings: Generate) -> None:
    """Refuse a folder with more tasks than requested, since a run would train on all of them."""
    count, overshoot = result["counts"]["kept"], settings.batch - 1  # the last round may exceed the number
    if count <= settings.num_instructions + overshoot:
        return
    before = result["run"]["config"]["generate"]["num_instructions"]
    number = f"generate.num_instructions={before if before >= count - overshoot else count}"
    wrong = f"{folder}: has {count:,} tasks, more than generate.num_instructions={settings.num_instructions}"
    raise UserError(Refusal(f"{wrong}; use {number}, or out=FOLDER for separate tasks", number))
