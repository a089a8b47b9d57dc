"""Batches that do not fit into memory are computed in parts, with the gradients of the whole batch."""

import gc
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from peftkit.config.console import log
from peftkit.training.steps import StepTrainer

Batch = dict[str, Any]


class SplittingTrainer(StepTrainer):
    """A Trainer that computes batches in parts where memory runs out: halves, and so on down to single examples.

    The gradients of the parts are accumulated, each weighted as an accumulated batch is, so that a step has the
    gradient of its whole batch; only dropout draws other masks. Steps, their examples and their order stay the same.
    """

    splits_batches = True  # False: running out of memory is an error
    depends_on_batch = False  # whether the loss of an example depends on the others of its batch
    part_size: int | None = None  # examples that are computed at once; None: whole batches

    def get_batch_samples(self, *args: Any) -> Any:
        self._done: list[Batch] = []  # the batches of a step whose gradients are accumulated
        return super().get_batch_samples(*args)

    def training_step(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the gradients of a batch, in parts if it does not fit, and return its loss.

        Raises:
            MemoryError: it does not fit; parts would change the result, or a single example does not fit either.
        """
        self._done = getattr(self, "_done", [])
        missing = [inputs]
        while (loss := self._try(model, missing, *args, **kwargs)) is None:
            model.zero_grad()  # also of the batches before, which are computed again
            self._halve(model, inputs)
            missing = [*self._done, inputs]
        self._done.append(inputs)
        return loss

    def _try(self, model: nn.Module, batches: Sequence[Batch], *args: Any, **kwargs: Any) -> torch.Tensor | None:
        """Compute the gradients of batches; return the loss of the last one, None where memory runs out."""
        try:
            for batch in batches:
                parts = parts_of(batch, self.part_size) or [batch]
                loss = sum(super(SplittingTrainer, self).training_step(model, each, *args, **kwargs) for each in parts)
            return loss  # type: ignore[return-value]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _halve(self, model: nn.Module, inputs: Batch) -> None:
        """Halve the size of parts.

        Raises:
            MemoryError: they cannot be smaller; the message has what to type.
        """
        whole = max(sizes_of(inputs), default=1)
        size = min(self.part_size or whole, whole)
        wrong = f"out of memory in training with {size} example{'s' * (size > 1)} at once"
        if size == 1:
            longest = max((each.shape[1] for each in _tensors(inputs) if each.dim() > 1), default=1)
            raise MemoryError(
                f"{wrong}, of up to {longest} tokens; set task.max_length={max(longest // 2, 1)}, "
                "train.activation_checkpointing=true or method=qlora, and job=plan shows what it needs"
            )
        if self.depends_on_batch:
            fits = self._fitting(model, inputs)
            raise MemoryError(
                f"{wrong}; set train.per_device_train_batch_size={fits}, with fewer examples in the loss of a batch"
            )
        if not self.splits_batches or self.args.world_size > 1 or not parts_of(inputs, 1):
            half, steps = max(self.args.per_device_train_batch_size // 2, 1), self.args.gradient_accumulation_steps * 2
            raise MemoryError(
                f"{wrong}; set train.per_device_train_batch_size={half} train.gradient_accumulation_steps={steps}, "
                "which gives the same result"
            )
        self.part_size = -(-size // 2)
        log(
            f"!! out of memory with {size} examples at once: batches are computed in parts of {self.part_size}, "
            "with the same result (train.auto_find_batch_size=false stops instead)"
        )

    def _fitting(self, model: nn.Module, inputs: Batch) -> int:
        """Return the most examples that fit, of those that are found by halving."""
        size = max(sizes_of(inputs))
        while size > 1:
            size //= 2
            if self._try(model, parts_of(inputs, size)[:1]) is not None:
                break
        return size


def parts_of(batch: Batch, size: int | None) -> list[Batch]:
    """Return the batch in parts of up to `size` examples; none where its tensors have no common first dimension."""
    if len(sizes_of(batch)) != 1 or size is None:
        return []
    (whole,) = sizes_of(batch)
    return [
        {name: each[first : first + size] if _has_rows(each) else each for name, each in batch.items()}
        for first in range(0, whole, size)
    ]


def sizes_of(batch: Batch) -> set[int]:
    """Return the first dimensions of the tensors of a batch."""
    return {len(each) for each in _tensors(batch)}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a GPU's or the CPU's memory was exhausted, of which oneDNN and C++ have texts of their own."""
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or should_reduce_batch_size(error)
        or str(error).startswith(("could not create a", "std::bad_alloc"))
    )


def _tensors(batch: Batch) -> list[torch.Tensor]:
    return [each for each in batch.values() if _has_rows(each)]


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0
