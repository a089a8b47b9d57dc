"""The end of a training step: interrupting signals, and losses or gradients that are not finite."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from peftkit.compat.trainer import SamplerTrainer
from peftkit.config.signals import Interrupted, pending

MAX_SKIPPED = 30  # steps in a row that the loss scaling of fp16 skips; it halves its scale with each of them


class StepTrainer(SamplerTrainer):
    """A Trainer that stops after a step where a signal interrupts it, and where its numbers are no longer finite.

    A checkpoint of that step precedes the interrupt. Several processes stop after the same step.
    """

    _last_step = -1  # whose end has been handled
    _skipped = 0  # steps in a row

    @contextmanager
    def ended_step(self, loss: Any, gradient_norm: Any, learning_rate: float | None) -> Iterator[None]:
        """Wrap the logging, the evaluation and the checkpoint at the end of a step; an epoch's last step has two ends.

        Raises:
            FloatingPointError: the loss or the gradients are NaN or infinite; a GPU, which would have to be waited for,
                is checked every `logging_steps` steps and before checkpoints.
            Interrupted: by a signal.
        """
        is_first, self._last_step = self.state.global_step != self._last_step, self.state.global_step
        wrong = self._is_checked() and not self._is_finite(loss, gradient_norm, is_first)
        number, is_wrong = self._largest(pending(), int(wrong))
        if is_wrong:
            raise FloatingPointError(self._divergence(loss, gradient_norm, learning_rate))
        stops = number and not (is_first and self._ends_epoch())
        if stops and not Path(self.args.output_dir, f"checkpoint-{self.state.global_step}").is_dir():
            self.control.should_save = True
        yield
        if stops:
            raise Interrupted(number)

    def _ends_epoch(self) -> bool:
        """Return whether the evaluation and the checkpoint of an epoch follow this step."""
        is_stopped = self.control.should_training_stop or self.control.should_epoch_stop
        return is_stopped or float(self.state.epoch or 0).is_integer()

    def _is_checked(self) -> bool:
        is_due = self.state.global_step % max(int(self.state.logging_steps), 1) == 0 or self.control.should_log
        return self.args.device.type == "cpu" or is_due or self.control.should_save or self._ends_epoch()

    def _is_finite(self, loss: Any, gradient_norm: Any, is_first: bool) -> bool:
        if self.accelerator.optimizer_step_was_skipped:  # its gradients exceed the range of fp16
            self._skipped += is_first
            return math.isfinite(loss) and self._skipped <= MAX_SKIPPED
        self._skipped = 0
        return math.isfinite(loss) and math.isfinite(0.0 if gradient_norm is None else gradient_norm)

    def _divergence(self, loss: Any, gradient_norm: Any, learning_rate: float | None) -> str:
        rate = self.args.learning_rate
        norm = math.nan if gradient_norm is None else float(gradient_norm)
        at = f"loss {float(loss):.3g}, gradient norm {norm:.3g}, learning rate {learning_rate or rate:.3g}"
        fp16 = ", or train.fp16=false" if self.args.fp16 else ""
        return f"training diverged at step {self.state.global_step}: {at}; try train.learning_rate={rate / 10:g}{fp16}"

    def _largest(self, *values: int) -> list[int]:
        """Return the largest of each value over the processes."""
        if self.args.world_size == 1:
            return list(values)
        found = torch.tensor(values)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self._cpu_group)
        return found.tolist()  # type: ignore[no-any-return]

    @cached_property
    def _cpu_group(self) -> Any:
        """The processes, connected such that nothing waits for a GPU."""
        return None if "gloo" in distributed.get_backend() else distributed.new_group(backend="gloo")
