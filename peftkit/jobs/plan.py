"""The plan of a run: its trainable parameters, steps and memory, without training."""

from dataclasses import dataclass

import numpy as np

from peftkit import training
from peftkit.config import RunConfig
from peftkit.config.console import is_main_process
from peftkit.data.batches import LengthGroupedSampler, padding_waste
from peftkit.data.datasets import load_task_dataset
from peftkit.data.formats.preferences import REFERENCE_COLUMNS
from peftkit.methods import Parameters, count_parameters
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.build import build, optimizer_steps, split_holdout, text_length
from peftkit.pipeline.memory import Memory, predict_memory
from peftkit.pipeline.sources import warn_substitutions
from peftkit.pipeline.train import custom_loss, make_trainer


@dataclass(frozen=True)
class Plan:
    """Trainable parameters, data, steps and memory of a run."""

    run: str  # method, model, task, data and seed
    parameters: Parameters
    examples: int  # to train on
    dropped: int
    truncated: int  # examples longer than max_length
    max_length: int  # tokens
    steps: int
    batch_size: int
    accumulation: int  # batches per optimizer step
    epochs: float
    tokens: float  # over all epochs
    padding_waste: float  # share of padding in all computed tokens
    learning_rate: float
    bf16: bool
    memory: Memory  # bytes for the longest batch, without the Python process

    def lines(self) -> dict[str, str]:
        """Return the plan as text, by headings."""
        parameters, memory = self.parameters, self.memory
        return {
            "run": self.run,
            "trained weights": f"{parameters.trainable:,} of {parameters.total:,} "
            f"({parameters.trainable / parameters.total:.2%}), {parameters.head:,} of them in the head",
            "examples": f"{self.examples:,} to train, {self.dropped} dropped",
            "steps": f"{self.steps:,.0f} of {self.batch_size} examples x {self.accumulation}",
            "tokens": f"{self.tokens:,.0f} over {self.epochs:g} epochs",
            "truncated": f"{self.truncated} of {self.examples} examples, at {self.max_length} tokens",
            "padding": f"{self.padding_waste:.1%} of all computed tokens",
            "learning rate": f"{self.learning_rate:g}, {'bf16' if self.bf16 else 'fp32'}",
            "memory": f"{_mb(memory.total)} predicted for the longest batch: weights {_mb(memory.weights)}, "
            f"AdamW {_mb(memory.optimizer)}, activations, gradients and loss {_mb(memory.step)}; "
            "the Python process needs more",
        }


def plan(config: RunConfig) -> None:
    """Print trainable parameters, steps and memory of a run."""
    lines = make_plan(config).lines()
    for name, text in lines.items() if is_main_process() else ():
        print(f"{name:>16}  {text}")


def make_plan(config: RunConfig) -> Plan:
    """Load data and model, and count parameters, steps, tokens, truncation, padding and memory without training."""
    source = find_model(config.model, config.source)
    dataset = load_task_dataset(config.task, config.data_root, config.source, calibration=config.calibration.holdout)
    warn_substitutions(source, dataset.source)
    examples = dataset.splits[config.task.splits["train"]]
    if config.early_stopping.patience is not None:
        examples, _ = split_holdout(dataset, config.task, config.early_stopping.holdout)
    bundle, encoded = build(config, source, dataset.label_names, examples)
    arguments = training.training_arguments(config.train, config.seed)
    batch_size = arguments.train_batch_size
    sampler = LengthGroupedSampler(encoded.lengths, batch_size, config.seed)
    longest = np.argsort(-np.asarray(encoded.lengths), kind="stable")[:batch_size]
    batch = [encoded.inputs[int(index)] for index in longest]
    if config.task.kind == "preferences":  # only the run itself computes the scores of a reference, or of a teacher
        batch = [example | dict.fromkeys(REFERENCE_COLUMNS, 0.0) for example in batch]
    loss = custom_loss(config, bundle, encoded) if config.distill.teacher is None else None
    trainer = make_trainer(config, bundle, arguments, encoded.inputs, loss=loss)
    parameters = count_parameters(bundle.model)
    epochs = arguments.num_train_epochs if parameters.trainable else 0
    return Plan(
        run=f"{config.method.name} of {source.name} on {config.task.name} ({dataset.source.name}), seed {config.seed}",
        parameters=parameters,
        examples=len(examples),
        dropped=sum(dataset.dropped.values()),
        truncated=encoded.truncated,
        max_length=min(config.task.max_length, text_length(bundle.format)),
        steps=optimizer_steps(arguments, len(encoded.lengths)) if parameters.trainable else 0,
        batch_size=batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        epochs=epochs,
        tokens=encoded.tokens * epochs,
        padding_waste=padding_waste(encoded.lengths, sampler.order(0), batch_size),
        learning_rate=arguments.learning_rate,
        bf16=arguments.bf16,
        memory=predict_memory(trainer, trainer.data_collator(batch)),
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
