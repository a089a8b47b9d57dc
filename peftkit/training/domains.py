"""Objectives over the domains of examples: domain-adversarial training, domain confusion, and group DRO."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel, reduce
from torch import nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, log_softmax, mse_loss

from peftkit.models.pooling import pool_states, stack_of
from peftkit.training.callbacks import CheckpointedCallback, load_states
from peftkit.training.losses import CountedLoss
from peftkit.training.outputs import DOMAIN_COLUMN, LABEL_INPUTS

HIDDEN_UNITS = 100  # of the domain classifier, as in Ganin et al. 2016, section 5.2.1
CLASSIFIER_RATE = 1e-2  # its learning rate, on the schedule of the run: at 1e-3 the features move faster than it learns
SHARPNESS = 10.0  # gamma of the schedule in Ganin et al. 2016, section 5.2.2
ATTACHED = "domain_classifier"  # its name in the model while it trains


class ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient is that of its output times -factor (Ganin et al. 2016, section 4.2)."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.factor * gradients[0], None


def reversal_factor(progress: float) -> float:
    """Return lambda of the reversed gradient after a share of the training steps (Ganin et al. 2016, section 5.2.2)."""
    return 2 / (1 + math.exp(-SHARPNESS * progress)) - 1


class DomainLoss(CountedLoss):
    """An objective over the domains `names`, whose numbers are in the column DOMAIN_COLUMN of a batch."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.progress = list(names), 0.0  # the latter is the share of the steps that are done

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the model."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""


class DomainAdversarialLoss(DomainLoss):
    """The task's loss and that of a domain classifier on the reversed features (Ganin et al. 2016, section 3.1).

    Examples without a label count only in the second. The classifier trains as a part of the model: see `attach`.

    Args:
        pooling: mean, cls or last: what the head reads of the states of the tokens.
        max_lambda: the factor of the reversed gradient at the end of training.
    """

    def __init__(self, names: Sequence[str], hidden_size: int, pooling: str, max_lambda: float) -> None:
        super().__init__(names)
        self.pooling, self.max_lambda = pooling, max_lambda
        self.classifier = nn.Sequential(
            nn.Linear(hidden_size, HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, len(names))
        )

    def attach(self, model: Any) -> None:
        """Make the classifier a part of the model, so that it is trained with it, in all processes."""
        setattr(model, ATTACHED, self.classifier.to(model.device))

    def detach(self, model: Any) -> None:
        """Remove the classifier from the model."""
        delattr(model, ATTACHED)

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the means of the labels' losses and of the domains' losses, (2,)."""
        logits, features = self._outputs(model, batch)
        losses, counts = example_losses(logits, batch["labels"])
        reversed_features = ReverseGradient.apply(features, self.max_lambda * reversal_factor(self.progress))
        domain = cross_entropy(self.classifier(reversed_features).float(), batch[DOMAIN_COLUMN])
        return torch.stack([losses.sum() / counts.sum().clamp(min=1), domain])

    def terms(self, batch: Mapping[str, Any]) -> torch.Tensor:
        counts = known_labels(batch["labels"])
        return torch.stack([counts.sum(), counts.new_tensor(float(len(counts)))])

    def features(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the features of examples (examples, hidden size)."""
        return self._outputs(model, batch)[1]

    def domain_logits(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the classifier's scores of the domains (examples, domains)."""
        return self.classifier(self.features(model, batch))  # type: ignore[no-any-return]

    def _outputs(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        states: list[torch.Tensor] = []
        stack = stack_of(extract_model_from_parallel(model))
        handle = stack.register_forward_hook(lambda *call: states.append(call[-1][0]))
        try:
            logits = model(**inputs_of(batch)).logits
        finally:
            handle.remove()
        return logits, pool_states(states[-1].float(), batch["attention_mask"], self.pooling)

    def state(self) -> dict[str, Any]:
        return dict(self.classifier.state_dict())

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.classifier.load_state_dict(state)


class DomainConfusionLoss(DomainAdversarialLoss):
    """The task's loss, that of a domain classifier, and the features' confusion of it.

    The domain confusion loss of Tzeng et al. 2015: the features descend the cross-entropy between a uniform
    distribution over the domains and the classifier's; the classifier descends its own loss on fixed features. That
    confusion is smallest where the classifier finds no domain, whereas a reversed gradient pulls the features on until
    it takes them for others.

    Args:
        max_lambda: the factor of the confusion at the end of training.
    """

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the means of the labels' losses, of the classifier's and of the confusion times lambda, (3,)."""
        logits, features = self._outputs(model, batch)
        losses, counts = example_losses(logits, batch["labels"])
        domain = cross_entropy(self.classifier(features.detach()).float(), batch[DOMAIN_COLUMN])
        fixed = {name: weight.detach() for name, weight in self.classifier.named_parameters()}
        scores = functional_call(self.classifier, fixed, (features,)).float()
        confusion = -log_softmax(scores, dim=-1).mean()
        factor = self.max_lambda * reversal_factor(self.progress)
        return torch.stack([losses.sum() / counts.sum().clamp(min=1), domain, factor * confusion])

    def terms(self, batch: Mapping[str, Any]) -> torch.Tensor:
        labels, domains = super().terms(batch)
        return torch.stack([labels, domains, domains])


class GroupDROLoss(DomainLoss):
    """The losses of domains, weighted by exponentiated gradient ascent (Sagawa et al. 2020, algorithm 1).

    Each step multiplies the weight of a domain by exp(step_size * its mean loss in the batch), which is 0 where the
    batch has none of it, divides all by their sum, and descends the gradient of the weighted sum. Batches of several
    processes count as one.
    """

    def __init__(self, names: Sequence[str], step_size: float) -> None:
        super().__init__(names)
        self.step_size = step_size
        self.weights = torch.full((len(names),), 1 / len(names), dtype=torch.float64)

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the mean loss of each domain, (domains,), 0 where the batch has none of it."""
        losses, counts = example_losses(model(**inputs_of(batch)).logits, batch["labels"])
        return self._by_domain(losses, batch) / self._by_domain(counts, batch).clamp(min=1)

    def terms(self, batch: Mapping[str, Any]) -> torch.Tensor:
        return self._by_domain(known_labels(batch["labels"]), batch)

    def combined(self, means: torch.Tensor) -> torch.Tensor:
        """Update the weights, and return the weighted sum of the losses."""
        losses = reduce(means.detach().clone(), "mean")  # those of all processes together
        raised = self.weights.to(means.device) * torch.exp(self.step_size * losses.double())
        self.weights = raised / raised.sum()
        return (self.weights.to(means.dtype) * means).sum()

    def _by_domain(self, values: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
        return values.new_zeros(len(self.names)).index_add(0, batch[DOMAIN_COLUMN], values)

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.weights = state["weights"]


class DomainCallback(CheckpointedCallback):
    """Give an objective the share of training that is done, and its state to checkpoints."""

    def __init__(self, loss: DomainLoss) -> None:
        self.loss = loss

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.loss.progress = state.global_step / state.max_steps

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_states([self], Path(state.best_model_checkpoint), args.device)

    def state_dict(self) -> dict[str, Any]:
        return self.loss.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss.load_state(state)


def example_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses of each example, and over how many terms, (examples,) each.

    The losses are those of transformers' heads: cross-entropy of classes, also of tokens; squared error of numbers;
    binary cross-entropy of 0 and 1 for each class.

    Args:
        logits: (examples, classes), or (examples, tokens, classes).
        labels: (examples, ...), negative or NaN where they do not count.
    """
    logits, known = logits.float(), _is_known(labels)
    if not labels.is_floating_point():
        losses = cross_entropy(logits.movedim(-1, 1), labels.masked_fill(~known, -100), reduction="none")
    elif labels.dim() == 1:
        losses = mse_loss(logits[:, 0], labels.float().masked_fill(~known, 0.0), reduction="none") * known
    else:
        losses = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none") * known
    return losses.reshape(len(labels), -1).sum(1), known_labels(labels)


def known_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return the number of labels of each example that count (examples,)."""
    return _is_known(labels).reshape(len(labels), -1).sum(1).float()


def _is_known(labels: torch.Tensor) -> torch.Tensor:
    return labels >= 0 if not labels.is_floating_point() else ~labels.isnan()


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model reads of a batch."""
    return {name: value for name, value in batch.items() if name not in LABEL_INPUTS}


def give_own_group(optimizer: torch.optim.Optimizer, classifier: nn.Module) -> None:
    """Move the weights of a domain classifier to a group with their own learning rate."""
    weights = list(classifier.parameters())
    own = {id(each) for each in weights}
    for group in optimizer.param_groups:
        group["params"] = [each for each in group["params"] if id(each) not in own]
    optimizer.add_param_group({"params": weights, "lr": CLASSIFIER_RATE, "weight_decay": 0.0})
