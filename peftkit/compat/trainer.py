"""Private parts of transformers' Trainer, of accelerate's Accelerator, and of TRL's trainers.

Those of TRL are mixins that go before them in a class's bases.
"""

from typing import Any

from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer


class SamplerTrainer(Trainer):
    """A Trainer that takes its order of training examples from `train_sampler`, and evaluates in dataset order."""

    train_sampler: Sampler | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self.train_sampler or super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        return None if eval_dataset is None else SequentialSampler(eval_dataset)

    def prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs on the trainer's device."""
        return self._prepare_inputs(inputs)

    @property
    def loss_shifts_labels(self) -> bool:
        """Whether the model's loss is that of a causal language model, which can be divided by a count of tokens."""
        return bool(self._loss_shifts_labels)


def reset_preparation(trainer: Trainer) -> None:
    """Let accelerate prepare a model for training that it prepared for evaluation.

    accelerate marks a model as prepared whatever it was prepared for. Without this reset, DDP would not wrap the model
    and the processes would train independently.
    """
    vars(trainer.model).pop("_is_accelerate_prepared", None)
    trainer.accelerator._models.clear()
    trainer.model_wrapped = trainer.model  # type: ignore[assignment]


class NoTelemetryMixin:
    """Keeps a TRL trainer from writing a model card, sending telemetry and logging a count of tokens."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        for metrics in self._metrics.values():  # type: ignore[attr-defined]
            metrics.pop("num_tokens", None)  # a resumed run would restart the count; result.json has the correct one
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing: peftkit writes the model card."""

    def _send_telemetry(self) -> None:
        """Do nothing."""


class PretokenizedDPOMixin:
    """Lets a DPOTrainer use a dataset that is tokenized and has the reference model's log-likelihoods."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset
