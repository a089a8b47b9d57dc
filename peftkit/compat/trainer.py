"""Private parts of transformers' Trainer, of accelerate's Accelerator, and of TRL's trainers.

Those of TRL are mixins that go before them in a class's bases.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer
from transformers.utils import SAFE_WEIGHTS_NAME


class SamplerTrainer(Trainer):
    """A Trainer that takes its order of training examples from `train_sampler`, and evaluates in dataset order.

    Its steps do not list the model's weights, of which an adapter trains few. Checkpoints, except those
    of a PeftModel, lack the weights that were frozen from the start.
    """

    train_sampler: Sampler | None = None
    optimizer: torch.optim.Optimizer | None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self.train_sampler or super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        return None if eval_dataset is None else SequentialSampler(eval_dataset)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if self.accelerator.distributed_type != DistributedType.NO:
            return super()._clip_grad_norm(model)  # type: ignore[no-any-return]
        assert self.optimizer is not None
        self.accelerator.unscale_gradients()
        trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in trained if weight.grad is not None]
        if not gradients or any(each.device.type != "cpu" or each.dtype != torch.float32 for each in gradients):
            return nn.utils.clip_grad_norm_(trained, self.args.max_grad_norm)
        flat = [each.flatten() for each in gradients]
        norm = torch.stack([each.dot(each) for each in flat]).sum().sqrt()  # takes half the time of torch's norms
        if not norm <= self.args.max_grad_norm:  # or NaN
            nn.utils.clip_grads_with_norm_(trained, self.args.max_grad_norm, norm)
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return the FLOPs of a batch as transformers estimates them, which counts the weights only once."""
        ids = inputs.get(self._main_input)
        return 0 if ids is None else ids.numel() * self._flops_per_token

    @cached_property
    def _main_input(self) -> str:
        return getattr(self.model, "main_input_name", "input_ids")

    @cached_property
    def _flops_per_token(self) -> int:
        return super().floating_point_ops({self._main_input: torch.empty(1)})

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.frozen = {name for name, weight in self.model.named_parameters() if not weight.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if state_dict is not None or not self.frozen or isinstance(self.model, PeftModel):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            own = dict(self.model.named_parameters()).keys() | dict(self.model.named_buffers()).keys()
            own -= self.frozen  # a tied weight has one name here, and several in the state dict
            kept = {name: each.contiguous() for name, each in self.model.state_dict().items() if name in own}
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(kept, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, *args: Any, learning_rate: float | None = None
    ) -> None:
        steps = max(self.state.global_step - self._globalstep_last_logged, 1)
        with self.ended_step(tr_loss / steps, grad_norm, learning_rate):
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, learning_rate=learning_rate)

    def ended_step(self, loss: Any, gradient_norm: Any, learning_rate: float | None) -> AbstractContextManager[None]:
        """Return a context for the logging, the evaluation and the checkpoint at the end of each step and epoch.

        Args:
            loss: the mean since the last log entry.
        """
        return nullcontext()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if not self.frozen:
            super()._issue_warnings_after_load(load_result)

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
