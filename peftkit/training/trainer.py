"""HF's Trainer on Accelerate, the training loop of all methods."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PretrainedConfig,
    PrinterCallback,
    ProgressCallback,
    TrainerState,
    TrainingArguments,
)

from peftkit.compat.transformers import eager_attention, sdpa_configs
from peftkit.config import UserError
from peftkit.config.progress import Stage
from peftkit.methods import Unfreezing
from peftkit.training import checkpoints
from peftkit.training.callbacks import (
    JsonLogCallback,
    RankAllocationCallback,
    ScheduleCallback,
    SetEpochCallback,
    save_states,
)
from peftkit.training.domains import DomainAdversarialLoss, DomainCallback, DomainLoss, give_own_group
from peftkit.training.losses import CountedLoss, loss_terms
from peftkit.training.micro_batches import SplittingTrainer

EAGER_TOKENS = 128  # of a batch on a CPU, up to which eager attention trains faster than sdpa
ModelFunction = Callable[..., torch.Tensor]  # of model and batch; returns scores or a loss


class ScoringTrainer(SplittingTrainer):
    """HF's Trainer whose order of examples depends only on (seed, epoch), so that a resumed run repeats it.

    It predicts what `reader` computes from the model, and minimizes `loss` or, without one, the model's own loss.

    Args:
        patience: epochs without a better score until training stops.
        train_collator: of training batches; None: `data_collator`, as for all others.
        settings: the keyword arguments of HF's Trainer.
    """

    optimizer: torch.optim.Optimizer | None
    data_collator: Any

    def __init__(
        self,
        *,
        reader: ModelFunction,
        train_sampler: Sampler | None = None,
        schedule: Unfreezing | None = None,
        loss: ModelFunction | None = None,
        patience: int | None = None,
        log_file: Path | None = None,
        train_collator: Any = None,
        **settings: Any,
    ) -> None:
        self.reader, self.train_sampler, self.schedule, self.loss = reader, train_sampler, schedule, loss
        self.train_collator = train_collator
        self.scoring: Stage | None = None  # counts the examples
        self.loraplus_lr_ratio: float | None = None  # the learning rate of LoRA's matrices B over that of A
        self.chooses_attention = False  # eager for short batches on a CPU
        self.eager_batches = 0
        self.resumed: TrainerState | None = None  # the state of the checkpoint from which training goes on
        self.added_ids: list[int] | None = None  # the token ids of batches beside those of the examples, if known
        super().__init__(callbacks=[] if patience is None else [EarlyStoppingCallback(patience)], **settings)
        if loss is not None or not self.loss_shifts_labels:
            # the loss is a mean over its batch; transformers assumes one that is already divided by the terms of all
            # accumulated batches if the model accepts any keyword, as many models do
            self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = self.divides_loss = True  # `compute_loss` does
        self.spare: Any = None  # a batch that must not count, see `SharedBatches`
        self.is_spare = False  # whether that is the current one
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if log_file is not None:
            self.add_callback(JsonLogCallback(log_file))
        train = settings.get("train_dataset")
        if train is not None and is_adalora(settings["model"]):
            self.add_callback(RankAllocationCallback(settings["model"].base_model))
        for each in (train, train_sampler, train_collator):
            if hasattr(each, "epoch"):
                self.add_callback(SetEpochCallback(each))
        if schedule is not None:
            self.add_callback(ScheduleCallback(schedule, self.log))
        if isinstance(loss, DomainLoss):
            self.add_callback(DomainCallback(loss))

    def get_train_dataloader(self) -> Any:
        collator = self.data_collator
        self.data_collator = self.train_collator or collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> Any:
        """Plan no epoch for a resumed training that has ended, where upstream would take one more step."""
        epochs, per_epoch, *others, max_steps = super().set_initial_training_values(args, dataloader)
        if self.resumed is not None:
            stopped = self.resumed.stateful_callbacks.get(EarlyStoppingCallback.__name__)
            if self.resumed.global_step >= max_steps or (
                stopped and _is_stopped(EarlyStoppingCallback.from_state(stopped))
            ):
                epochs = self.resumed.global_step // per_epoch
        return epochs, per_epoch, *others, max_steps

    @property
    def has_stopped_early(self) -> bool:
        """Whether early stopping ended the training."""
        return any(
            isinstance(each, EarlyStoppingCallback) and _is_stopped(each) for each in self.callback_handler.callbacks
        )

    def place_checkpoint(self, written: Path, target: Path) -> None:
        """Add the states of the callbacks to a written checkpoint, give it its name, and remove old ones."""
        save_states(self.callback_handler.callbacks, written, self.args.should_save)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.place(written, target)
            checkpoints.rotate(target.parent, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def check_checkpoint(self, checkpoint: Path) -> None:
        """Raise an error if a file of a checkpoint is damaged."""
        if (wrong := checkpoints.damage(checkpoint, self.args.world_size)) is not None:
            raise UserError(
                f"{checkpoint} is damaged ({wrong}); repeat the command, which trains again from where it can"
            )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Scale the learning rate for each weight; temporarily frozen weights are included.

        LoRA+ (Hayou et al. 2024) has a higher rate for the matrices B and for vectors, such as trained biases.
        """
        is_new = self.optimizer is None
        optimizer = self._created_optimizer(model)
        if is_new and isinstance(self.loss, DomainAdversarialLoss):
            give_own_group(optimizer, self.loss.classifier)
        return optimizer

    def _created_optimizer(self, model: nn.Module | None) -> torch.optim.Optimizer:
        if self.loraplus_lr_ratio is not None and self.optimizer is None:
            module: Any = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, module)
            settings |= {
                "loraplus_lr_ratio": self.loraplus_lr_ratio,
                "loraplus_weight_decay": self.args.weight_decay,
                "loraplus_lr_embedding": settings["lr"],  # PEFT's default is 1e-6, whatever the rate
            }
            optimizer = create_loraplus_optimizer(module, kind, **settings)
            self.optimizer = optimizer
            return optimizer
        if self.schedule is not None and self.optimizer is None:
            module = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, module)
            groups = self._parameter_groups(module, self.schedule.rates)
            self.optimizer_cls_and_kwargs = kind, {**settings, "params": groups}
        return super().create_optimizer(model)

    def _parameter_groups(self, model: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return groups of weights with the same rate and weight decay, in the order of the rates."""
        weights, decaying = dict(model.named_parameters()), set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, rate in rates.items():
            settings = self.args.learning_rate * rate, self.args.weight_decay if name in decaying else 0.0
            groups.setdefault(settings, []).append(weights[name])
        return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """Return the batches of an optimizer step, and over how many terms of all processes its loss is the mean."""
        batches, items = super().get_batch_samples(self._with_spare(epoch_iterator), num_batches, device)
        self.divides_loss = items is None  # otherwise the model or TRL divides by the tokens
        if self.divides_loss and batches:
            terms = [self._terms(batch).to(device) * (batch is not self.spare) for batch in batches]
            items = self.accelerator.reduce(torch.stack(terms).sum(0), "sum")  # type: ignore[assignment]
        return batches, items

    def _with_spare(self, batches: Iterator) -> Iterator:
        """Note the batch that must not count; where the model or TRL counts tokens, it loses its labels."""
        for batch in batches:
            if getattr(self.train_sampler, "lacks_last", False) and self.accelerator.gradient_state.end_of_dataloader:
                self.spare = batch
                if self.model_accepts_loss_kwargs and "labels" in batch:
                    batch["labels"] = torch.full_like(batch["labels"], -100)
            yield batch

    def _terms(self, batch: Mapping[str, Any]) -> torch.Tensor:
        if isinstance(self.loss, CountedLoss):
            return self.loss.terms(batch)
        return loss_terms(batch, self.loss_shifts_labels)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the gradients of a batch; eager attention is also that of checkpointed layers' second forward pass.

        A frozen forward pass stays with sdpa, which is faster without gradients.
        """
        self.is_spare = inputs is self.spare
        configs = self._sdpa_configs if self.chooses_attention and is_short(inputs) else []
        self.eager_batches += bool(configs)
        with eager_attention(configs):
            return super().training_step(model, inputs, *args, **kwargs)

    @cached_property
    def _sdpa_configs(self) -> list[PretrainedConfig]:
        is_fixed = self.args.device.type != "cpu" or self.args.torch_compile
        return [] if is_fixed else sdpa_configs(self.model)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        """Return the loss of a batch, weighted so that the gradient of an optimizer step is that of one large batch.

        The mean of the means of batches would weight the terms of a batch with few of them more than others.
        """
        if num_items_in_batch is None or not self.divides_loss:
            loss = self._mean_loss(model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs)
            return self._combined(loss)
        share = self._terms(inputs) / num_items_in_batch * self.accelerator.num_processes  # gradients are averaged
        share = share.nan_to_num()  # of terms that no batch of this step has
        loss = self._mean_loss(model, inputs, *args, **kwargs)
        # the mean of no terms is NaN
        return self._combined(loss * 0 if self.is_spare else torch.where(share > 0, loss * share, 0.0))

    def _combined(self, loss: Any) -> Any:
        return self.loss.combined(loss) if isinstance(self.loss, CountedLoss) else loss

    def _mean_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.loss is not None:
            return self.loss(model, inputs)
        if self.label_smoother is not None:
            inputs = with_decoder_inputs(model, inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        scores = self.score(model, self.prepare_inputs(inputs)).float()
        if self.scoring is not None:
            self.scoring.done += len(scores) * self.args.world_size
        return None, scores, scores.new_zeros(len(scores))  # labels are not used; the caller has them

    def score(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the reader's scores (examples, ...) in the trainer's precision, also of a part that it calls alone."""
        with torch.no_grad(), self.accelerator.autocast():
            return self.reader(model, inputs)


def _is_stopped(callback: EarlyStoppingCallback) -> bool:
    return callback.early_stopping_patience_counter >= callback.early_stopping_patience


def is_short(batch: Mapping[str, Any]) -> bool:
    """Return whether a batch is short enough for eager attention; packed texts are separated by their positions."""
    parts = (each for each in batch.values() if isinstance(each, Mapping))  # of several tasks
    sizes = [each.shape[1] for each in batch.values() if isinstance(each, torch.Tensor) and each.dim() == 2]
    return "position_ids" not in batch and max(sizes, default=0) <= EAGER_TOKENS and all(map(is_short, parts))


def with_decoder_inputs(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with the decoder's inputs: HF's label smoothing removes the labels, from which a model makes them.

    Batches of a model without an encoder and a decoder are returned unchanged.
    """
    base: Any = extract_model_from_parallel(model)
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    if not base.config.is_encoder_decoder or "decoder_input_ids" in inputs:
        return inputs
    return {**inputs, "decoder_input_ids": base.prepare_decoder_input_ids_from_labels(labels=inputs["labels"])}


def is_adalora(model: Any) -> bool:
    """Return whether AdaLoRA reallocates the model's ranks during training."""
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


def scores_of(predictions: Any) -> np.ndarray:
    """Return the scores of predictions, which may be a tuple with more."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
