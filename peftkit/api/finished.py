"""Use finished runs: predict, score, combine, prune, merge, export, push and load them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from peftkit.api.calls import compose_run, run_for_folder, with_libraries
from peftkit.cli import arguments
from peftkit.config import refuse
from peftkit.config.checks.run_folders import run_folder_errors
from peftkit.config.console import log_records
from peftkit.config.own_code import open_code

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peftkit.jobs.evaluate import Evaluation
    from peftkit.jobs.ood import OodResult
    from peftkit.results.run_result import RunResult


class Prediction(NamedTuple):
    """The prediction for one text; all are None where a text is empty, and `prediction` below predict.abstain=."""

    prediction: Any  # a label, a number, tags, or a text, by the kind of task
    scores: list[float] | None  # per label, in the order of the labels; a single number of a regression
    confidence: float | None = None  # of classification: the probability of the likeliest label


def evaluate(run: str | Path | RunResult, *, task: str | None = None, **settings: Any) -> Evaluation:
    """Score a run on its own validation data, on another task with the same labels, or on other data.

    Raises:
        UserError: the run is not finished, or the task has other labels.
    """
    from peftkit.jobs.evaluate import evaluate_run

    config = compose_run(settings, task=task, job="evaluate", run=arguments.run_folder(run))
    with with_libraries(config):
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
    config = compose_run(settings, job="predict", run=folder, input="texts")
    with with_libraries(config):
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
    config = compose_run(settings, model=model, job="embed", input="texts", **chosen)
    with with_libraries(config):
        return encode(load_embedding_model(config), values)[0]


def merge(run: str | Path | RunResult, *, output: str | Path | None = None) -> Path:
    """Merge a run's adapter into its base, and return the folder of the plain checkpoint.

    Raises:
        UserError: the method's weights cannot be merged.
    """
    folder = arguments.run_folder(run)
    target = Path(folder, "merged") if output is None else arguments.path("output", output)
    run_for_folder(compose_run({}, job="merge", run=folder, output=str(target)))
    return target


def combine(
    runs: Sequence[str | Path | RunResult], weights: Sequence[float] | None = None, **settings: Any
) -> list[RunResult]:
    """Add what runs of one base learned, with signed weights; return a run for each of their tasks.

    Args:
        runs: runs, and folders or Hub ids of PEFT adapters.
        weights: of the runs' changes, by default 1 each.
        settings: such as combine={"method": "ties", "density": 0.2}.

    Raises:
        UserError: the runs have other bases, or a method that cannot be merged.
    """
    from peftkit.jobs.combine import combine_runs
    from peftkit.results.run_result import RunResult

    folders = [arguments.run_folder(each) for each in arguments.some("runs", runs, "run folder", object)]
    numbers = None if weights is None else arguments.items("weights", weights, "number")
    config = compose_run(settings, job="combine", runs=folders, weights=numbers)
    with with_libraries(config):
        return [RunResult(each) for each in combine_runs(config)]


def prune(run: str | Path | RunResult, *, heads: float, **settings: Any) -> RunResult:
    """Remove a share of a run's attention heads, the least important ones, and return the smaller run.

    Raises:
        UserError: the run cannot be merged, or no head can be removed.
    """
    from peftkit.results.run_result import RunResult

    folder = arguments.run_folder(run)
    return RunResult(run_for_folder(compose_run(settings, job="prune", run=folder, **{"prune.heads": heads})))


def ood(run: str | Path | RunResult, *, task: str | None = None, **settings: Any) -> OodResult:
    """Measure how well a run detects texts of another kind: a task, `task.dataset`, or ood={"shuffle": True}.

    Raises:
        UserError: the run has no class probabilities, or no texts are named.
    """
    from peftkit.jobs.ood import detect

    config = compose_run(settings, task=task, job="ood", run=arguments.run_folder(run))
    with with_libraries(config):
        return detect(config)


def export(run: str | Path | RunResult, format: str, *, output: str | Path | None = None, **settings: Any) -> Path:
    """Write a run's model for other programs, and return the folder; it answers as the run, or nothing is written.

    Args:
        format: transformers, onnx or gguf.
        output: the folder; None is `export-<format>` in the run folder.

    Raises:
        UserError: the format has no such model, or the run's data cannot be read.
        ExportError: the export gives other answers than the run.
    """
    chosen = {} if output is None else {"output": str(arguments.path("output", output))}
    config = compose_run(settings, job="export", run=arguments.run_folder(run), format=format, **chosen)
    return run_for_folder(config)


def push(
    run: str | Path | RunResult, repo: str, *, what: str | None = None, private: bool = True, **settings: Any
) -> str:
    """Upload a run's model and its card to a repository of the Hub, and return the URL of the commit.

    Args:
        repo: "you/name".
        what: adapter, merged or both; None is the adapter, of a method without one the whole model.

    Raises:
        UserError: the run, the token or the repository does not fit.
        WriteError: the Hub does not answer as it should; calling again is safe.
    """
    from peftkit.jobs.push import upload_run

    chosen = {"repo": repo, "push.what": what, "push.private": private}
    config = compose_run(settings, job="push", run=arguments.run_folder(run), **chosen)
    with with_libraries(config):
        return upload_run(config)


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
