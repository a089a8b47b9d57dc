"""The end of a training step, where signals interrupt it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from peftkit.compat.trainer import SamplerTrainer
from peftkit.config.signals import Interrupted, pending


class StepTrainer(SamplerTrainer):
    """A Trainer that a signal stops after a step, with a checkpoint of it. Several processes stop after the same step."""

    _last_step = -1  # whose end has been handled

    @contextmanager
    def ended_step(self, loss: Any, gradient_norm: Any, learning_rate: float | None) -> Iterator[None]:
        """Wrap the logging, the evaluation and the checkpoint at the end of a step; an epoch's last step has two ends.

        Raises:
            Interrupted: by a signal.
        """
        is_first, self._last_step = self.state.global_step != self._last_step, self.state.global_step
        (number,) = self._largest(pending())
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
        return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")
