"""Turn a teacher's scores, beside the labels, into the loss of a student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

TEACHER = "teacher"  # the column of its scores (rows, labels)


@dataclass(frozen=True)
class Distillation:
    """The student's loss on labels and on what a teacher says of the same rows (Hinton et al. 2015, section 2).

    Of classes: the cross-entropy of the labels, and the divergence of both softmaxes at a temperature, times its
    square, which keeps the sizes of their gradients. Of a number: the squared differences from label and teacher.
    `weight` (0 to 1) is the teacher's share.
    """

    temperature: float
    weight: float

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", TEACHER)}
        logits = model(**inputs).logits.float()
        labels, taught = batch["labels"], batch[TEACHER].float()
        if logits.shape[-1] == 1:
            hard, soft = mse_loss(logits[:, 0], labels.float()), mse_loss(logits, taught)
        else:
            hard = cross_entropy(logits, labels)
            students, teachers = (log_softmax(each / self.temperature, dim=-1) for each in (logits, taught))
            divergence = kl_div(students, teachers, reduction="batchmean", log_target=True)
            soft = self.temperature**2 * divergence
        return (1 - self.weight) * hard + self.weight * soft
