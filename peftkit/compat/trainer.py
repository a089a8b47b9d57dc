"""Private parts of transformers' Trainer, of accelerate's Accelerator, and of TRL's trainers.

Those of TRL are mixins that go before them in a class's bases.
"""

import shutil
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

ASIDE = ".aside"  # in the folder of checkpoints: what is being written or removed


class SamplerTrainer(Trainer, ABC):
    """A Trainer that takes its order of training examples from `train_sampler`, and evaluates in dataset order.

    Its steps do not list the model's weights, of which an adapter trains few. Checkpoints, except those
    of a PeftModel, lack the weights that were frozen from the start; they are written aside, then `place_checkpoint`
    gives them their name.
    """

    train_sampler: Sampler | None = None
    optimizer: torch.optim.Optimizer | None
    earlier_seconds = 0.0  # of training, before it was resumed
    writes_aside = False

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
        if state_dict is not None or isinstance(self.model, PeftModel) or self._is_whole:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            own = dict(self.model.named_parameters()).keys() | dict(self.model.named_buffers()).keys()
            own -= self.frozen  # a tied weight has one name here, and several in the state dict
            kept = {name: each.contiguous() for name, each in self.model.state_dict().items() if name in own}
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(kept, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})

    @property
    def _is_whole(self) -> bool:
        """Whether all weights of a model of transformers train, so that checkpoints have its own format."""
        return isinstance(self.model, PreTrainedModel) and not self.frozen

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

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(super()._get_output_dir(trial), ASIDE if self.writes_aside else ""))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        target = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        written = target.parent / ASIDE / target.name
        self.writes_aside = True
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(target)
                if self.args.should_save:
                    self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            self.place_checkpoint(written, target)
        except (RuntimeError, SafetensorError) as error:
            if (reason := write_error(written)) is not None:
                raise reason from error
            raise
        finally:
            self.writes_aside = False
            if self.args.should_save:  # what remains after an error may fill the disk
                shutil.rmtree(target.parent / ASIDE, ignore_errors=True)

    @abstractmethod
    def place_checkpoint(self, written: Path, target: Path) -> None:
        """Give a checkpoint its name after all processes have written it."""

    def _load_best_model(self) -> None:
        self.check_checkpoint(Path(self.state.best_model_checkpoint or ""))
        super()._load_best_model()

    @abstractmethod
    def check_checkpoint(self, checkpoint: Path) -> None:
        """Raise an error if the weights of a checkpoint must not be loaded."""

    def log_state(self) -> dict[str, Any]:
        """Return what the next entries of the log are computed from; all processes must call it."""
        return {
            "losses": self.accelerator.gather(self._tr_loss.reshape(1)).tolist(),  # of each process
            "total_loss": self._total_loss_scalar,
            "last_step": self._globalstep_last_logged,
        }

    def load_log_state(self, state: dict[str, Any], seconds: float) -> None:
        """Continue the log of a training that took `seconds` before; to be called when training begins."""
        self._tr_loss.fill_(state["losses"][self.args.process_index])
        self._total_loss_scalar, self._globalstep_last_logged = state["total_loss"], state["last_step"]
        self._initial_global_step = 0
        self.earlier_seconds = seconds

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, start_time - self.earlier_seconds)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if self._is_whole:
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

    def log_state(self) -> dict[str, Any]:
        return super().log_state() | {"metrics": dict(self._metrics["train"])}  # type: ignore[misc, attr-defined]

    def load_log_state(self, state: dict[str, Any], seconds: float) -> None:
        super().load_log_state(state, seconds)  # type: ignore[misc]
        self._metrics["train"].update(state["metrics"])  # type: ignore[attr-defined]

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


def write_error(folder: Path) -> OSError | None:
    """Return why nothing can be written to a folder, None if something can; errors of torch.save have no reason."""
    file = folder / "probe"
    try:
        try:
            file.write_bytes(bytes(2**16))
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        return OSError(error.errno, error.strerror, str(folder))
    return None
