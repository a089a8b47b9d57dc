"""Turn a model into one that trains from its head down, a layer more at a time, lower layers in smaller steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from peftkit.config import UserError

Weights = dict[str, nn.Parameter]  # by their full names


@dataclass(frozen=True)
class Gradual:
    """Gradual unfreezing with discriminative rates (Howard and Ruder 2018, sections 3.3 and 3.2).

    Args:
        every: how long until the next lower layer joins: a number of steps; below 1, a share of all steps; epoch, an
            epoch each, or, where there are fewer epochs than that takes, evenly over the first half of training.
        decay: a layer's learning rate is that of the layer above divided by this.

    Raises:
        ValueError: a value is out of its range.
    """

    every: Literal["epoch"] | float
    decay: float

    def __post_init__(self) -> None:
        if self.every != "epoch" and self.every <= 0:
            raise ValueError(f"every={self.every} is no time; say every=epoch, a number of steps, or a share below 1")
        if self.decay < 1:
            raise ValueError(f"decay={self.decay} would give lower layers the larger steps; set it to 1 or more")

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """Let every weight train; `Unfreezing` freezes as training begins, once DDP has met all that will train."""
        groups_of(model)  # refuses a model without layers before its rows are encoded
        model.requires_grad_(True)
        return model

    def unfreezing(self, model: PreTrainedModel) -> Unfreezing:
        """Return what lets this model's groups of weights join one by one."""
        return Unfreezing(groups_of(model), self)


class Unfreezing:
    """Freeze all groups of weights but the first as training begins, and let one after the other join.

    What trains is a function of the step alone, so that a resumed run goes on where it was.
    """

    def __init__(self, groups: dict[str, Weights], gradual: Gradual) -> None:
        self.groups, self.every = groups, gradual.every
        self.shares = {name: gradual.decay**-depth for depth, name in enumerate(groups)}
        self.rates = {weight: self.shares[name] for name, weights in groups.items() for weight in weights}
        self.joins: dict[str, int] = {}  # the groups that are still frozen, and the step after which they join

    def begin(self, step: int, steps: int, epoch: int) -> list[dict[str, Any]]:
        """Freeze what does not train yet after this step of so many; tell what joins before the first."""
        starts = joining_steps(len(self.groups), self.every, steps, epoch)
        self.joins = dict(zip(self.groups, starts, strict=True))
        for weights in self.groups.values():
            for weight in weights.values():
                weight.requires_grad_(False)  # without a gradient AdamW leaves it alone, weight decay included
        joined = self.after(step)
        return joined if step == 0 else []  # those that joined before a resumption were told then

    def after(self, step: int) -> list[dict[str, Any]]:
        """Let the groups join whose time has come, and tell of each."""
        told = []
        for name in [name for name, start in self.joins.items() if start <= step]:
            del self.joins[name]
            for weight in self.groups[name].values():
                weight.requires_grad_(True)
            training = [weights for other, weights in self.groups.items() if other not in self.joins]
            size = sum(weight.numel() for weights in training for weight in weights.values())
            told.append({"unfrozen": name, "share_of_learning_rate": self.shares[name], "trainable_params": size})
        return told


def joining_steps(groups: int, every: str | float, steps: int, epoch: int) -> list[int]:
    """Return after which step each group joins, 0 for the first, in a training of so many steps, `epoch` each epoch.

    Raises:
        UserError: the last would never train.
    """
    if every != "epoch":
        assert not isinstance(every, str)
        interval = every if every >= 1 else every * steps
    elif (groups - 1) * epoch < steps:
        interval = epoch
    else:
        interval = steps / 2 / (groups - 1)
    found = [int(number * interval) for number in range(groups)]
    if found[-1] >= steps:
        raise UserError(
            f"every={every} reaches {sum(start < steps for start in found)} of {groups} groups of weights in {steps} "
            f"steps; say method.config.every=epoch, or a share of training below {1 / (groups - 1):.2g}"
        )
    return found


def groups_of(model: PreTrainedModel) -> dict[str, Weights]:
    """Return the model's weights in the order in which they join, by the name of what they belong to.

    The head, with whatever else lies behind the layers; the layers from the last, a decoder's before its encoder's; the
    embeddings, with whatever else lies before the layers. An output projection is no fresh head: it joins with the last
    layer or, tied, with the embeddings.

    Raises:
        UserError: the model is no stack of layers.
    """
    lists = layer_lists(model)
    output = model.get_output_embeddings()
    projection = set() if output is None else {id(weight) for weight in output.parameters()}
    top = {name: f"{name}.{length - 1}" for name, length in lists.items()}
    layers: dict[str, Weights] = {f"{name}.{number}": {} for name, length in lists.items() for number in range(length)}
    groups: dict[str, Weights] = {"embeddings": {}, **layers, "head": {}}
    passed: list[str] = []  # lists, as the weights come in the order in which the model was built
    for name, weight in model.named_parameters():
        layer = next((each for each in layers if name.startswith(f"{each}.")), None)
        stack = next((each for each in lists if f".{name}".startswith(f".{each}".rpartition(".")[0] + ".")), None)
        if layer is not None:
            passed.append(layer.rpartition(".")[0])
            group = layer
        elif not passed or (stack is not None and stack not in passed):
            group = "embeddings"
        elif stack is not None:
            group = top[stack]
        else:
            group = top[passed[-1]] if id(weight) in projection else "head"
        groups[group][name] = weight
    return {name: groups[name] for name in reversed(groups) if groups[name]}


def layer_lists(model: PreTrainedModel) -> dict[str, int]:
    """Return the lists of layers that a text runs through, an encoder's before its decoder's, and their lengths.

    A list within a layer of another, as T5 has them, is none of its own.
    """
    names = {module: name for name, module in model.named_modules()}
    found = {}
    for stack in [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model]:
        lists = [module for module in stack.modules() if isinstance(module, nn.ModuleList)]
        inner = {module for each in lists for module in each.modules() if module is not each}
        longest = max((each for each in lists if each not in inner), key=len, default=None)
        if longest is None:
            raise UserError(f"gradual unfreezing finds no layers in {type(model).__name__}; try method=full")
        found[names[longest]] = len(longest)
    return found
