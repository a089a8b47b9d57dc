"""Download what the runs of a command read from the Hub into its cache, for machines without a network."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from peftkit.compat.hub import NETWORK_ERRORS, download_adapter, download_checkpoint
from peftkit.config import RunConfig, TaskConfig, UserError, error_summary, kind_of
from peftkit.config.console import log
from peftkit.config.start import found_start, is_hub_id
from peftkit.config.write_failures import write_failure
from peftkit.data.tables import local_path, read_tables
from peftkit.leaderboard.costs import amount
from peftkit.metrics.registry import EVALUATE, load_of_evaluate
from peftkit.models.checkpoints import locate


class Fetched(NamedTuple):
    """A checkpoint, an adapter, data or a metric in the cache, with its size in bytes, None where it is not known."""

    kind: str
    name: str
    revision: str | None = None
    size: int | None = None


def fetch(config: RunConfig) -> list[Fetched]:
    """Download checkpoint, tokenizer, data and metrics of a run, print them with revision and size, and return them.

    Raises:
        UserError: the Hub has no such model or data, or it does not answer and its cache lacks them.
    """
    if config.source == "offline":
        log("nothing needs fetching: source=offline reads what is on this machine")
        return []
    found = list(_fetched(config))
    for each in found:
        _show(each)
    if found:
        log("the cache of the Hub has all of it: HF_HUB_OFFLINE=1 and source=hub run the command without a network")
    else:
        log("nothing needs fetching: model and data are files of this machine")
    return found


def _fetched(config: RunConfig) -> Iterator[Fetched]:
    model, start = config.model, config.start
    if not Path(model.checkpoint).exists() and not config.method.traits.reads_words:
        is_cached = locate(model, "hub").kind == "cache"
        yield _checkpoint(model.checkpoint, model.revision, is_cached)
    if start is not None and is_hub_id(start):
        folder = found_start(start, "hub", download_adapter).weights
        yield Fetched("adapter", start, folder.name, _bytes(folder))
    for task in config.tasks or [config.task]:
        if config.data_root is None and not local_path(task, None).exists():
            yield from _data(task)
        for name in (name for name in task.metrics if name.startswith(EVALUATE)):
            try:
                load_of_evaluate(name)
            except (OSError, ImportError, ValueError) as error:
                raise UserError(f"task.metrics=[{name}]: evaluate cannot load it: {error_summary(error)}") from error
            yield Fetched("metric", name)


@cache
def _checkpoint(name: str, revision: str, is_cached: bool) -> Fetched:
    """Download the files of a checkpoint that transformers reads, once for all runs of a command."""
    try:
        folder = download_checkpoint(name, revision, local_files_only=is_cached)
    except ValueError as error:
        raise UserError(f"{name} at {revision}: {error_summary(error)}; use another checkpoint") from error
    except NETWORK_ERRORS as error:
        if write_failure(error, Path()) is not None:
            raise
        advice = "repeat the command where the Hub answers, with HF_TOKEN if the model is gated"
        raise UserError(f"{name} at {revision}: {error_summary(error)}; {advice}") from error
    return Fetched("checkpoint", name, folder.name, _bytes(folder))


def _data(task: TaskConfig) -> Iterator[Fetched]:
    kind = kind_of(task)
    if task.dataset in kind.generators:
        log(f"task.dataset={task.dataset} is generated where the run trains")
        return
    if kind.name == "language_modeling":
        raise UserError(
            f"{task.dataset} is read as a stream, of which the cache keeps nothing; run hf download {task.dataset} "
            "--repo-type dataset --local-dir FOLDER, and set task.dataset=FOLDER"
        )
    tables, origin = read_tables(task, None, "hub")
    info = next(iter(tables.values())).info
    name = f"{task.dataset}, {task.subset}" if task.subset else task.dataset
    yield Fetched("data", name, origin.revision, info.download_size or info.dataset_size)


def _bytes(folder: Path) -> int:
    """Return the bytes of the files of a snapshot, which are links into the cache."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@cache
def _show(each: Fetched) -> None:
    """Print one thing that was fetched, once for all runs of a command."""
    size = "" if each.size is None else amount(each.size, "B")
    print(f"{each.kind:<10}  {size:>9}  {each.name}{f' at {each.revision}' if each.revision else ''}")
