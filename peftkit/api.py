"""The Python API. Every function returns values and prints nothing; messages go to the logger `peftkit`.

Values are never parsed as overrides of the command line, so a path or text needs no quotes. Keys are those of the
command line: `train={"num_train_epochs": 1}`, `search={"lr_multipliers": [0.3, 1, 3]}`, or a dotted key,
`**{"task.dataset": "my data/train.csv"}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from peftkit.cli import arguments
from peftkit.cli.compose import open_composer
from peftkit.cli.values import compose_values
from peftkit.config import RunConfig, UserError, refuse, sharing
from peftkit.config.checks.run_folders import run_folder_errors
from peftkit.config.console import log_records
from peftkit.config.own_code import open_code
from peftkit.jobs.comparison import train_all
from peftkit.jobs.dispatch import run_job
from peftkit.jobs.workers import with_same_workers, with_workers

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peftkit.jobs.diff import RunDiff
    from peftkit.jobs.evaluate import Evaluation
    from peftkit.jobs.plan_record import Plan
    from peftkit.leaderboard.board import Board
    from peftkit.results.listing import ListedRun
    from peftkit.results.run_result import RunResult


class Prediction(NamedTuple):
    """The prediction for one text; all are None where a text is empty, and `prediction` below predict.abstain=."""

    prediction: Any  # a label, a number, tags, or a text, by the kind of task
    scores: list[float] | None  # per label, in the order of the labels; a single number of a regression
    confidence: float | None = None  # of classification: the probability of the likeliest label


def finetune(
    *,
    model: str | None = None,
    method: str | None = None,
    task: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    train: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunResult:
    """Fine-tune once; a finished run is repeated only with force=True.

    Args:
        model, method, task, recipe: names of conf/ and recipes/; None is the default, or the recipe's choice.
        train: arguments of transformers' trainer.
        settings: any other key or section, such as tasks=[...] in place of `task`.

    Raises:
        UserError: a name, key or value is wrong, or the data or checkpoint do not fit.
    """
    from peftkit.results.run_result import RunResult

    chosen = {"recipe": recipe, "model": model, "method": method, "task": task, "seed": seed, "train": train}
    return RunResult(_run(with_workers(_config(settings, **chosen), 1)))


@sharing()
def compare(
    *,
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: int | Sequence[int] = 3,
    workers: int | Literal["auto"] | None = None,
    model: str | None = None,
    recipe: str | None = None,
    train: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Board:
    """Fine-tune every method on every task with every seed, and return the board of these runs.

    Args:
        seeds: seeds, or how many from 0 on.
        workers: runs that train at the same time ("auto": as cores, memory and GPUs allow), each in a process that is
            started anew; a script needs `if __name__ == "__main__":` then. None trains one after the other in this one.

    Raises:
        UserError: a name, key or value is wrong, before any run starts. A run that fails later is on the board.
    """
    from peftkit.leaderboard.board import Board

    tasks, methods = arguments.some("tasks", tasks, "name", str), arguments.some("methods", methods, "name", str)
    numbers = arguments.some("seeds", range(seeds) if isinstance(seeds, int) else seeds, "seed", int)
    chosen = {"recipe": recipe, "model": model, "train": train, "workers": workers}
    runs = [_values(settings, **chosen, task=t, method=m, seed=n) for t, m, n in product(tasks, methods, numbers)]
    with log_records():
        configs = with_same_workers(_configs(runs))
    configs.sort(key=lambda config: numbers.index(config.seed) if config.sequential_seeds else 0)
    return Board.read(train_all(configs))


def evaluate(run: str | Path | RunResult, *, task: str | None = None, **settings: Any) -> Evaluation:
    """Score a run on its own validation data, on another task with the same labels, or on other data.

    Raises:
        UserError: the run is not finished, or the task has other labels.
    """
    from peftkit.jobs.evaluate import evaluate_run

    config = _config(settings, task=task, job="evaluate", run=arguments.run_folder(run))
    with _library_settings(config):
        return evaluate_run(config)


@overload
def predict(run: str | Path | RunResult, texts: str, **settings: Any) -> Prediction: ...
@overload
def predict(run: str | Path | RunResult, texts: Sequence[str | Sequence[str]], **settings: Any) -> list[Prediction]: ...
def predict(
    run: str | Path | RunResult, texts: str | Sequence[str | Sequence[str]], **settings: Any
) -> Prediction | list[Prediction]:
    """Return a `Prediction` for each text, in their order.

    Args:
        texts: a list of texts; where the task reads two texts, of pairs. A single text gives a single `Prediction`.

    Raises:
        UserError: the run is not finished, or the task reads another number of texts.
    """
    from peftkit.jobs.predict import predict_table
    from peftkit.pipeline.inputs import text_table
    from peftkit.results.run_result import RunResult

    values = [texts] if isinstance(texts, str) else arguments.items("texts", texts, "text")
    folder = arguments.run_folder(run)
    if not values:
        return []
    config = _config(settings, job="predict", run=folder, input="texts")
    with _library_settings(config):
        task = RunResult.finished(config.run).config.task
        table, _ = predict_table(config, text_table(task, values, split=isinstance(texts, str)), "texts")
    found = [Prediction(row["prediction"], row["scores"], row.get("confidence")) for row in table]
    return found[0] if isinstance(texts, str) else found


def embed(
    texts: Sequence[str], *, run: str | Path | RunResult | None = None, model: str | None = None, **settings: Any
) -> np.ndarray:
    """Return the embeddings (texts, dim) of a run's model, or of a checkpoint; an empty text gets a zero vector.

    Raises:
        UserError: the model has no such layer, or the method is not part of the model's layers.
    """
    from peftkit.jobs.embed import encode, load_embedding_model

    values = arguments.items("texts", texts, "text", str)
    chosen = {} if run is None else {"run": arguments.run_folder(run)}
    config = _config(settings, model=model, job="embed", input="texts", **chosen)
    with _library_settings(config):
        return encode(load_embedding_model(config), values)[0]


def merge(run: str | Path | RunResult, *, output: str | Path | None = None) -> Path:
    """Merge a run's adapter into its base, and return the folder of the plain checkpoint.

    Raises:
        UserError: the method's weights cannot be merged.
    """
    folder = arguments.run_folder(run)
    target = Path(folder, "merged") if output is None else arguments.path("output", output)
    _run(_config({}, job="merge", run=folder, output=str(target)))
    return target


def plan(
    *,
    model: str | None = None,
    method: str | None = None,
    task: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    train: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    """Return the trainable parameters, steps and memory of a run, without training."""
    from peftkit.jobs.plan import make_plan

    chosen = {"recipe": recipe, "model": model, "method": method, "task": task, "seed": seed, "train": train}
    config = _config(settings, job="plan", **chosen)
    with _library_settings(config):
        return make_plan(config)


def load(
    run: str | Path | RunResult, *, allow_code: Sequence[str] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the trained model, adapter and head included, and its tokenizer.

    A folder of job=extend gives the base with the new tokens. Global settings of the process stay unchanged.

    Args:
        allow_code: packages of your own, where the run's method is of one.
    """
    from peftkit.jobs import extend
    from peftkit.pipeline.artifacts import load_run
    from peftkit.pipeline.libraries import library_settings

    folder = Path(arguments.run_folder(run))
    packages = arguments.items("allow_code", allow_code, "name of a package", str)
    refuse(*((True, message) for message in run_folder_errors("run", folder, loads=True)))
    with library_settings("auto"), log_records(), open_code(packages):
        return extend.load_extended(folder) if extend.is_vocabulary(folder) else load_run(folder)


def base_checkpoint(run: str | Path | RunResult) -> str:
    """Return the folder, or the Hub id, of the checkpoint that a finished run was trained on.

    It is adapter/base of the run where `export.with_base=true` stored it. A small GPT-2 or T5 of source=offline that
    is not cached on this machine is pretrained first.

    Raises:
        UserError: the run is not finished, or its base is missing.
    """
    from peftkit.pipeline.artifacts import find_base
    from peftkit.results.run_result import RunResult

    with log_records():
        return find_base(RunResult.finished(arguments.run_folder(run)))


def leaderboard(out: str | Path = "outputs", *, results: Sequence[str | Path] = ()) -> Board:
    """Return the board of all runs below `out` and `results`."""
    from peftkit.leaderboard.board import Board

    return Board.read(
        [arguments.path("out", out), *map(Path, arguments.items("results", results, "path", (str, Path)))]
    )


def runs(out: str | Path = "outputs") -> list[ListedRun]:
    """Return all runs below `out` with their status, first score, size in bytes and start, by folder."""
    from peftkit.results.listing import list_runs

    return list_runs(arguments.path("out", out))


def diff(first: str | Path | RunResult, second: str | Path | RunResult) -> RunDiff:
    """Return the examples on which two finished runs of one task differ, by class, with paired tests."""
    from peftkit.jobs.diff import compare_predictions

    return compare_predictions(*map(arguments.run_folder, (first, second)))


def _configs(runs: Sequence[Mapping[str, Any]]) -> list[RunConfig]:
    """Compose and check the config of each run, all before the first starts."""
    with open_composer(None) as composer:
        return [compose_values(composer, values) for values in runs]


def _config(settings: Mapping[str, Any], **chosen: Any) -> RunConfig:
    return _configs([_values(settings, **chosen)])[0]


def _values(settings: Mapping[str, Any], **chosen: Any) -> dict[str, Any]:
    """Return the arguments of a function as the values of a config; `settings` may not set those of `chosen`."""
    for name in settings.keys() & {*chosen, "job"}:
        raise UserError(f"{name}={settings[name]!r:.60}: this function sets {name}; drop it, or call another one")
    return {**chosen, **settings}


def _run(config: RunConfig) -> Path:
    with log_records():
        return Path(run_job(config))


@contextmanager
def _library_settings(config: RunConfig) -> Iterator[None]:
    from peftkit.pipeline.libraries import library_settings

    with library_settings(config.source, config.threads), log_records(), open_code(config.allow_code or ()):
        yield
