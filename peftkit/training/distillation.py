"""Knowledge distillation: a student's loss on labels and on the scores of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

TEACHER_COLUMN = "teacher"  # of the teacher's scores (examples, labels)


@dataclass(frozen=True)
class Distillation:
    """The loss on labels and on a teacher's scores of the same examples (Hinton et al. 2015, section 2).

    For classes: the cross-entropy of the labels, and the KL divergence of both softmaxes at a temperature, times its
    square, which keeps the scale of its gradients. For a number: the squared differences from label and teacher.
    `alpha` (0 to 1) is the teacher's share.
    """

    temperature: float
    alpha: float

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", TEACHER_COLUMN)}
        logits = model(**inputs).logits.float()
        labels, teacher = batch["labels"], batch[TEACHER_COLUMN].float()
        if logits.shape[-1] == 1:
            hard, soft = mse_loss(logits[:, 0], labels.float()), mse_loss(logits, teacher)
        else:
            hard = cross_entropy(logits, labels)
            student, target = (log_softmax(each / self.temperature, dim=-1) for each in (logits, teacher))
            soft = self.temperature**2 * kl_div(student, target, reduction="batchmean", log_target=True)
        return (1 - self.alpha) * hard + self.alpha * soft
