"""What a format of job=export gets and returns, and the comparison of an export with its run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import training
from peftkit.config import RunConfig, UserError, error_summary, kind_of
from peftkit.config.errors import ExportError
from peftkit.config.sections import EXPORT_RECORD, Export
from peftkit.data.formats import Encoded, Predictions
from peftkit.metrics.calibration import probabilities
from peftkit.pipeline.artifacts import base_source, load_bundle, run_tokenizer_source
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.comparison import TOLERANCE, max_difference
from peftkit.pipeline.encoding import read_dataset
from peftkit.pipeline.evaluate import decode_scores, predictor
from peftkit.pipeline.examples import score_reference
from peftkit.pipeline.measures import milliseconds, timed_examples
from peftkit.results import run_folder
from peftkit.results.loading_code import Artifact
from peftkit.results.model_card import model_card
from peftkit.results.public import public_result
from peftkit.results.run_result import RunResult

AGREEMENT = f"`{EXPORT_RECORD}` records by how much its answers differ from those of the run."


@dataclass(frozen=True)
class ExportSource:
    """A finished run with its model in fp32, which the format may change: merging does, in place.

    Args:
        config: of the run, for computing in fp32.
        settings: the section `export` of the command.
        examples: those of which the answers are compared, of the validation split `split`; `encoded` are their inputs.
    """

    run: RunResult
    config: RunConfig
    settings: Export
    bundle: TrainingBundle
    split: str
    examples: Any
    encoded: Encoded


@dataclass(frozen=True)
class Exported:
    """What a format wrote, read from its files.

    Args:
        model: a module that is called as the run's model, `model(**batch)`, and returns an output with its logits; it
            has `generate` where the format's record states that text is compared.
        details: for the record.
        tolerance: the largest difference; None where weights are rounded on request, so that it is only recorded.
        reader: what computes scores from the model's output; None: as from that of the run's model.
        temperature: that its scores are divided by, which the run's are not.
        check: compares it with the run's answers in another way too, and raises an `ExportError` where they differ.
    """

    model: Any
    details: dict[str, Any] = field(default_factory=dict)
    tolerance: float | None = TOLERANCE["fp32"]
    reader: Any = None
    temperature: float = 1.0
    check: Callable[[Predictions], None] | None = None


@dataclass(frozen=True)
class Agreement:
    """How much the answers of an export differ from those of its run.

    Args:
        compared: probabilities, or scores: logits and log-likelihoods, whose differences are relative above 1.
        same_predictions: share of the examples with the same prediction; None where predictions are numbers.
        same_text: the same of generated text; None where none was generated.
    """

    examples: int
    compared: str
    max_difference: float
    same_predictions: float | None
    same_text: float | None


def open_run(config: RunConfig) -> ExportSource:
    """Load a finished run, and the examples on which its export is compared with it.

    Raises:
        UserError: the run folder is damaged, or its data cannot be read or is another one.
    """
    run = RunResult.finished(config.run)
    recorded = run.record["audit"]["sources"]["data"]
    trained = replace(
        run.config,
        data_root=config.data_root or run.config.data_root,
        source="offline" if recorded["kind"] == "offline" else config.source,
        train={**run.config.train, "bf16": False, "fp16": False},
    )
    data = read_dataset(trained)
    if data.source.revision != recorded["revision"]:
        raise UserError(
            f"{run.folder} was trained on {recorded['name']} {recorded['revision']}, the data is {data.source.name} "
            f"{data.source.revision}; set data_root= as for the run"
        )
    split = trained.task.splits["validation"][0]
    table = data.splits[split]
    examples = table.select(range(min(config.export.samples, len(table))))
    reference = score_reference(trained, base_source(run), {split: examples}, run_tokenizer_source(run))
    bundle = load_bundle(run, quantized=False)
    encoded = reference.add_likelihoods(split, bundle.format.encode(examples))
    return ExportSource(run, trained, config.export, bundle, split, examples, encoded)


def scorer(source: ExportSource, written: Exported) -> training.ScoringTrainer:
    """Return a trainer that scores with an export, in the batches of the run."""
    trainer = predictor(source.config, replace(source.bundle, model=written.model))
    trainer.reader = written.reader or trainer.reader
    return trainer


def answers(source: ExportSource, written: Exported, generates: bool) -> Predictions:
    """Return the answers of an export to the examples, in fp32; without text where `generates` is False."""
    bundle, encoded = replace(source.bundle, model=written.model), source.encoded
    trainer = scorer(source, written)
    scores = training.predict_scores(trainer, encoded.inputs, encoded.lengths).scores * written.temperature
    if generates:
        return decode_scores(bundle, trainer, encoded, scores)[0]
    return bundle.format.decode(bundle.format.unpad(scores, encoded), encoded)


def latency_of(source: ExportSource, written: Exported) -> float:
    """Return the median milliseconds of an example, alone in its batch, in fp32, on its second pass."""
    return milliseconds(scorer(source, written), timed_examples(source.encoded))


def write_export_card(source: ExportSource, folder: Path, artifact: Artifact, note: str = AGREEMENT) -> None:
    """Write the model card of an export; it leaves this machine, whose paths are not for it."""
    run_folder.write_text(folder / "README.md", model_card(public_result(source.run.record), artifact, note))


@contextmanager
def reading() -> Iterator[None]:
    """Report an error of reading an export, or of computing with it, as one of the export.

    Raises:
        ExportError: it cannot be read.
    """
    try:
        yield
    except (ExportError, UserError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ExportError(f"the export cannot be read: {error_summary(error)}; nothing is written") from error


def compare(source: ExportSource, before: Predictions, after: Predictions) -> Agreement:
    """Return how much the answers of the export, `after`, differ from those of the run, at its temperature."""
    task_format, kind = source.bundle.format, kind_of(source.config.task)
    has_probabilities = kind.has_label_probabilities
    if has_probabilities:
        first, second = (
            probabilities(np.stack(each.scores), source.run.temperature, kind.several_labels)
            for each in (before, after)
        )
        difference = float(np.abs(first - second).max())
    else:
        difference = max_difference(_flat(before.scores), _flat(after.scores))
    pairs = zip(before.predictions, after.predictions, strict=True)
    share = float(np.mean([np.array_equal(one, other) for one, other in pairs]))
    is_text = before.has_ended is not None
    is_number = task_format.output_kind != "spans" and task_format.names is None
    return Agreement(
        len(before.scores),
        "probabilities" if has_probabilities else "scores",
        difference,
        None if is_number else share,
        share if is_text else None,
    )


def _flat(scores: list[np.ndarray]) -> np.ndarray:
    return np.nan_to_num(np.concatenate([np.ravel(row) for row in scores]))


def check_agreement(found: Agreement, tolerance: float | None) -> None:
    """Raise an error where the answers of an export differ from those of its run.

    Raises:
        ExportError: they do.
    """
    if tolerance is None:
        return
    if not found.max_difference <= tolerance:  # also NaN
        raise ExportError(
            f"the {found.compared} of the export differ by {found.max_difference:.2g} from the run's, more than "
            f"{tolerance:g}, so that nothing is written"
        )
    if found.same_text is not None and found.same_text < 1 and tolerance <= TOLERANCE["fp32"]:
        raise ExportError(
            f"the export generates another text than the run for {1 - found.same_text:.1%} of {found.examples} "
            "examples, so that nothing is written"
        )
