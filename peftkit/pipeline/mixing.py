"""Several runs of one method over one base, whose examples share batches: each has its own adapter and head."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from peftkit import training
from peftkit.config import RunConfig, UserError, kind_of
from peftkit.data.formats import Encoded, format_of
from peftkit.methods import load_adapters
from peftkit.models.load import load_model
from peftkit.pipeline.artifacts import base_source
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import predictor
from peftkit.pipeline.sources import run_tokenizer
from peftkit.results.run_result import RunResult


@dataclass(frozen=True)
class MixedModel:
    """A base with the adapters of several runs.

    Args:
        bundles: of each run by its name, all with one model.
        adapters: the name of each run's adapter in the model.
        trainers: that only predict; runs of one precision have the same.
    """

    bundles: Mapping[str, TrainingBundle]
    adapters: Mapping[str, str]
    trainers: Mapping[str, training.ScoringTrainer]

    def scores(self, encoded: Mapping[str, Encoded], size: int) -> dict[str, np.ndarray]:
        """Return the scores (examples, labels) of each run's examples; batches are grouped only by length.

        Args:
            size: of a batch, in examples.
        """
        label_counts = {name: len(self.bundles[name].format.names or [0]) for name in encoded}
        found = {name: np.empty((len(each.lengths), label_counts[name])) for name, each in encoded.items()}
        for trainer in {id(each): each for each in self.trainers.values()}.values():
            names = [name for name in encoded if self.trainers[name] is trainer]
            rows = [(name, number) for name in names for number in range(len(encoded[name].lengths))]
            rows.sort(key=lambda row: -encoded[row[0]].lengths[row[1]])
            for first in range(0, len(rows), size):
                batch = rows[first : first + size]
                inputs = [
                    {key: value for key, value in encoded[name].inputs[number].items() if key != "labels"}
                    for name, number in batch
                ]
                adapters = [self.adapters[name] for name, _ in batch]
                scores = training.mixed_batch_logits(trainer, trainer.data_collator(inputs), adapters)
                for (name, number), row in zip(batch, scores, strict=True):
                    found[name][number] = row[: label_counts[name]]
        return found


def load_mixed(runs: Mapping[str, RunResult], configs: Mapping[str, RunConfig]) -> MixedModel:
    """Load the base of runs once, with an adapter for each, under the name of the run.

    Raises:
        UserError: the runs cannot be mixed.
    """
    first = next(iter(runs.values()))
    for run in runs.values():
        if message := mixing_error(run) or ("" if run is first else _other_base(run, first)):
            raise UserError(message)
    source = base_source(first)
    tokenizer = run_tokenizer(first.config, source, source)
    most = max(len(run.label_names or [0]) for run in runs.values())
    head = [str(number) for number in range(most)] if most > 1 else None  # a smaller head uses a part of it
    base = load_model(first.config.model, source, tokenizer, "classification", head, first.config.method.quantization)
    adapters = {name: f"adapter_{number}" for number, name in enumerate(runs)}  # a name in PEFT has no dot
    model = load_adapters(base, {adapters[name]: run.folder / "adapter" for name, run in runs.items()}).eval()
    bundles = {
        name: TrainingBundle(
            model, tokenizer, format_of(run.config.task, run.config.model.family, run.label_names, tokenizer)
        )
        for name, run in runs.items()
    }
    trainers: dict[str, training.ScoringTrainer] = {}  # by precision
    for name, config in configs.items():
        precision = training.precision_of(config.train)
        trainers[precision] = trainers.get(precision) or predictor(config, bundles[name])
    of_run = {name: trainers[training.precision_of(config.train)] for name, config in configs.items()}
    return MixedModel(bundles, adapters, of_run)


def mixing_error(run: RunResult) -> str | None:
    """Return why the examples of a run cannot share batches with those of other runs; None where they can."""
    folder, config = run.folder, run.config
    if not kind_of(config.task).sequence_label or config.model.family == "seq2seq":
        return f"{folder} has no classification head; only classifiers and regressors can be mixed: use run="
    if not (folder / "adapter").is_dir() or not config.method.traits.mixed_batch:
        return (
            f"{folder} is {config.method.name}, whose weights are the same for all examples of a batch; "
            "mix runs of methods with the trait mixed_batch, such as lora"
        )
    if config.vocab is not None:
        return f"{folder} has tokens that the base lacks (vocab=); use run= for each run"
    if config.model.pairs is not None:
        return f"{folder} encodes the texts of a pair apart, two for each example; use run= for each run"
    return None


def base_key(run: RunResult) -> tuple[object, ...]:
    """Return what determines the base of a run, equal for runs that can share it."""
    config = run.config
    return str(run.source), config.model.pooling, str(config.model.keep_layers), str(config.method.quantization)


def _other_base(run: RunResult, first: RunResult) -> str | None:
    if base_key(run) == base_key(first):
        return None
    return f"{run.folder} has another base than {first.folder}; mix runs on one base"
