"""job=bench: what training with peftkit costs beside plain scripts of HF's Trainer and PyTorch, on this machine."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, UserError
from peftkit.config.console import log
from peftkit.config.progress import duration, stage
from peftkit.config.source import Source
from peftkit.data.columns import text_columns
from peftkit.data.datasets import TaskDataset, load_task_dataset, subset
from peftkit.models.checkpoints import checkpoint_path
from peftkit.paths import safe_name
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.bench.measure import Work, measure, run_probe, schedule
from peftkit.pipeline.bench.page import write_bench_page
from peftkit.pipeline.bench.records import FILE, BenchResults, Comparison, read_bench, read_benches, write_bench
from peftkit.pipeline.bench.summary import as_record
from peftkit.pipeline.bench.terminal import show_bench
from peftkit.pipeline.sources import describe_sources, device_name, execution_setup, warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder

NOT_PLAIN = (  # training arguments that a plain script sets itself, by its variant
    "train_sampling_strategy", "bf16", "fp16", "report_to", "output_dir", "seed", "save_strategy", "disable_tqdm",
    "auto_find_batch_size",
)  # fmt: skip


def bench(config: RunConfig) -> None:
    """Measure what is not measured yet, each in a process of its own, and show all measurements."""
    work, comparison = _prepare(config)
    with locked_folder(work.folder):
        bench = None if config.force else read_bench(work.folder)
        if bench is None:
            with stage("measuring the machine"):
                bench = BenchResults(comparison, run_probe(work), config.bench.baseline)
        bench.baseline = config.bench.baseline
        _measure_all(work, bench)
        write_bench(work.folder, bench, as_record(bench))
    show_bench(bench)
    page = work.folder.parent / "index.html"
    write_bench_page(read_benches(page.parent), page)
    log(f"-> {page}, {work.folder / FILE}")


def _measure_all(work: Work, bench: BenchResults) -> None:
    """Measure each variant and seed that is missing; the file is written after each."""
    steps = list(schedule(work.config))
    missing = [(variant, seed) for variant, seed in steps if bench.find(variant.name, seed) is None]
    if len(missing) < len(steps):
        log(f"{len(steps) - len(missing)} of {len(steps)} were measured before (force=true measures them again)")
    for number, (variant, seed) in enumerate(missing, start=1):
        found = measure(work, variant, seed, bench.probe.attention)
        bench.add(found)
        write_bench(work.folder, bench, as_record(bench))
        left = sum(each.seconds for each in bench.measurements) / len(bench.measurements) * (len(missing) - number)
        log(
            f"[{number}/{len(missing)}] {variant.name}, seed {seed}: training {found.train_seconds:.1f} s of "
            f"{found.seconds:.1f} s, {work.metric} {found.score:.3f}"
            + (f" · about {duration(left)} left" if left else "")
        )


def _prepare(config: RunConfig) -> tuple[Work, Comparison]:
    """Read the data, and write it for the plain scripts."""
    source = find_model(config.model, config.source)
    whole = replace(config.task, max_train_samples=None, max_eval_samples=None)
    dataset = load_task_dataset(whole, config.data_root, config.source)
    warn_substitutions(source, dataset.source)
    sources, setup = describe_sources(config, source, dataset.source), execution_setup(config, dataset.is_split)
    meta = run_folder.meta(config.seed, device_name(), setup["precision"])
    described = {name: meta[name] for name in ("git", "versions", "device")}
    number = run_folder.digest([run_folder.run_id(config, sources, setup), described])
    model = run_folder.checkpoint_name(sources["model"])
    names = config.task.name, model, config.method.name, number
    folder = Path(config.out, "bench", "-".join(map(safe_name, names)))
    validation = dataset.splits[config.task.splits["validation"][0]]
    labels = subset(validation, config.task.max_eval_samples)["label"]
    if any(label is None for label in labels):
        raise UserError(f"task={config.task.name}: the validation labels are hidden; use another task.splits")
    examples = len(dataset.splits[config.task.splits["train"]])
    comparison = Comparison(
        id=number,
        task=config.task.name,
        data=dataset.source.name,
        model=model,
        method=config.method.name,
        metric=config.task.metrics[0],
        examples=min(examples, config.task.max_train_samples or examples),
        validation_examples=len(labels),
        epochs=float(config.train["num_train_epochs"]),
        batch_size=config.train["per_device_train_batch_size"],
        precision=setup["precision"],
        date=datetime.now(UTC).date().isoformat(),
        **described,
    )
    spec = _plain_spec(config, source, dataset) | {"files": _write_examples(config, dataset, folder)}
    return Work(config, folder, spec, dataset.label_names, list(labels), setup["precision"]), comparison


def _plain_spec(config: RunConfig, source: Source, dataset: TaskDataset) -> dict[str, Any]:
    """Return what all plain scripts share."""
    package, _, name = config.method.config["_target_"].rpartition(".")
    settings = {key: value for key, value in config.method.config.items() if key != "_target_"}
    return {
        "limits": {"train": config.task.max_train_samples, "validation": config.task.max_eval_samples},
        "columns": text_columns(config.task),
        "max_length": config.task.max_length,
        "checkpoint": checkpoint_path(source),
        "attention": config.model.attn_implementation,
        "revision": source.revision if source.kind in ("hub", "cache") else "main",
        "num_labels": len(dataset.label_names or [0]),
        "peft": {"class": name, "config": settings} if package == "peft" else None,
        "train": {name: value for name, value in config.train.items() if name not in NOT_PLAIN},
    }


def _write_examples(config: RunConfig, data: TaskDataset, folder: Path) -> dict[str, str]:
    """Write all examples of the splits that a plain script reads, and return their files."""
    splits = {"train": str(config.task.splits["train"]), "validation": config.task.splits["validation"][0]}
    files = {name: (folder / "data" / f"{name}.parquet").resolve() for name in splits}
    for name, split in splits.items():
        files[name].parent.mkdir(parents=True, exist_ok=True)
        data.splits[split].select_columns([*text_columns(config.task), "label"]).to_parquet(files[name])
    return {name: str(file) for name, file in files.items()}
