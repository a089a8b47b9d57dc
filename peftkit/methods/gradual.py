"""Gradual unfreezing: layers train from the head down, one more at a time, lower ones at smaller rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from peftkit.compat.tuner import check_values
from peftkit.config import Refusal, UserError, refusal

NamedParameters = dict[str, nn.Parameter]  # by full name


@dataclass(frozen=True)
class Gradual:
    """Gradual unfreezing with discriminative rates (Howard and Ruder 2018, sections 3.3 and 3.2).

    Args:
        every: the time until the next lower layer trains: a number of steps; below 1, a share of all steps; epoch, one
            epoch per layer or, with too few epochs for all layers, evenly over the first half of training.
        decay: a layer's learning rate is that of the layer above divided by this.

    Raises:
        ValueError: a value is out of its range.
    """

    every: Literal["epoch"] | float
    decay: float

    def __post_init__(self) -> None:
        check_values(
            (
                self.every != "epoch" and self.every <= 0,
                f"every={self.every}: use every=epoch, a number of steps, or a share below 1",
            ),
            (self.decay < 1, f"decay={self.decay} gives lower layers larger rates; set it to 1 or more"),
        )

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """Let every weight train; `Unfreezing` freezes them when training starts, after DDP has registered them all."""
        groups_of(model)  # refuses a model without layers before the data is encoded
        return model.requires_grad_(True)

    def unfreezing(self, model: PreTrainedModel) -> Unfreezing:
        """Return the schedule that unfreezes this model's groups of weights."""
        return Unfreezing(groups_of(model), self)


class Unfreezing:
    """Freezes all groups of weights but the first when training starts, and unfreezes one after the other.

    What trains depends on the step only, so that a resumed run continues correctly.
    """

    def __init__(self, groups: dict[str, NamedParameters], gradual: Gradual) -> None:
        self.groups, self.every = groups, gradual.every
        self.factors = {name: gradual.decay**-depth for depth, name in enumerate(groups)}
        self.rates = {weight: self.factors[name] for name, weights in groups.items() for weight in weights}
        self.starts: dict[str, int] = {}  # by frozen group, the step after which it trains

    def begin(self, step: int, steps: int, epoch: int) -> list[dict[str, Any]]:
        """Freeze what does not train yet after this step of `steps`; return log entries for what does."""
        self.starts = dict(zip(self.groups, start_steps(len(self.groups), self.every, steps, epoch), strict=True))
        for weight in [weight for weights in self.groups.values() for weight in weights.values()]:
            weight.requires_grad_(False)  # without a gradient AdamW does not change it, not even by weight decay
        entries = self.after(step)
        return entries if step == 0 else []  # before a resumption they were logged already

    def after(self, step: int) -> list[dict[str, Any]]:
        """Unfreeze the groups that train after this step, and return a log entry for each."""
        entries = []
        for name in [name for name, start in self.starts.items() if start <= step]:
            del self.starts[name]
            for weight in self.groups[name].values():
                weight.requires_grad_(True)
            training = [weights.values() for other, weights in self.groups.items() if other not in self.starts]
            size = sum(weight.numel() for weights in training for weight in weights)
            entries.append({"unfrozen": name, "share_of_learning_rate": self.factors[name], "trainable_params": size})
        return entries


def start_steps(groups: int, every: str | float, steps: int, epoch: int) -> list[int]:
    """Return the step after which each group trains, 0 for the first, out of `steps`, with `epoch` steps per epoch.

    Raises:
        UserError: the last group would never train.
    """
    if not isinstance(every, str):
        interval = every if every >= 1 else every * steps
    else:
        interval = epoch if (groups - 1) * epoch < steps else steps / 2 / (groups - 1)
    starts = [int(number * interval) for number in range(groups)]
    if starts[-1] >= steps:
        message = (
            f"every={every} reaches {sum(start < steps for start in starts)} of {groups} groups of weights in {steps} "
            f"steps; use method.config.every=epoch, or a share of training below {1 / (groups - 1):.2g}"
        )
        raise UserError(Refusal(message, "method.config.every=epoch"))
    return starts


def groups_of(model: PreTrainedModel) -> dict[str, NamedParameters]:
    """Return the model's weights by group, in the order in which they are unfrozen.

    First the head with all other modules after the layers; then the layers from the last, a decoder's before its
    encoder's; then the embeddings with all other modules before the layers. An output projection is not a new head: it
    trains with the last layer or, tied, with the embeddings.

    Raises:
        UserError: the model has no stack of layers.
    """
    lists = layer_lists(model)
    output = model.get_output_embeddings()
    projection = set() if output is None else {id(weight) for weight in output.parameters()}
    top = {name: f"{name}.{length - 1}" for name, length in lists.items()}
    layers: dict[str, NamedParameters] = {
        f"{name}.{number}": {} for name, length in lists.items() for number in range(length)
    }
    groups: dict[str, NamedParameters] = {"embeddings": {}, **layers, "head": {}}
    visited: list[str] = []  # lists so far: named_parameters() has the order in which the model was built
    for name, weight in model.named_parameters():
        layer = next((each for each in layers if name.startswith(f"{each}.")), None)
        stack = next((each for each in lists if f".{name}".startswith(f".{each}".rpartition(".")[0] + ".")), None)
        if layer is not None:
            visited.append(layer.rpartition(".")[0])
            group = layer
        elif not visited or (stack is not None and stack not in visited):
            group = "embeddings"
        elif stack is not None:
            group = top[stack]
        else:
            group = top[visited[-1]] if id(weight) in projection else "head"
        groups[group][name] = weight
    return {name: groups[name] for name in reversed(groups) if groups[name]}


def layer_lists(model: PreTrainedModel) -> dict[str, int]:
    """Return the names and lengths of the lists of layers, an encoder's before its decoder's.

    Lists inside a layer, as in T5, are ignored.
    """
    names = {module: name for name, module in model.named_modules()}
    lengths = {}
    for stack in [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model]:
        lists = [module for module in stack.modules() if isinstance(module, nn.ModuleList)]
        inner = {module for each in lists for module in each.modules() if module is not each}
        longest = max((each for each in lists if each not in inner), key=len, default=None)
        if longest is None:
            raise UserError(refusal(f"gradual unfreezing finds no layers in {type(model).__name__}", "method=full"))
        lengths[names[longest]] = len(longest)
    return lengths
