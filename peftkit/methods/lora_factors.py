"""LoRA adapters that were not trained: truncated SVDs of changes, and weighted sums of adapters by PEFT."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from peftkit.compat.transformers import Conv1D
from peftkit.config import UserError, refusal
from peftkit.methods.native import is_head
from peftkit.methods.peft import apply_method


class Factors(NamedTuple):
    """The matrices of one layer's LoRA: its change is b @ a, without a scaling. Of embeddings, a is (rank, tokens)."""

    a: torch.Tensor  # (rank, in)
    b: torch.Tensor  # (out, rank)


@dataclass(frozen=True)
class Truncation:
    """The best approximation of a change by LoRA, and shares of the squared norm of the whole change.

    Args:
        kept: the share of the approximation.
        linear: the share of all linear layers, of which a LoRA of full rank would keep everything.
        dropped: the shares of what no LoRA of linear layers has, by kind of weight.
        layers: the share of each layer's own change that is kept.
    """

    factors: dict[str, Factors]
    kept: float
    linear: float
    dropped: dict[str, float]
    layers: dict[str, float]


def truncate(model: PreTrainedModel, change: Mapping[str, torch.Tensor], rank: int) -> Truncation:
    """Approximate the change of each linear layer by the matrix of a lower rank that is nearest to it.

    By Eckart and Young (1936) that is its truncated SVD; each of the two factors gets the roots of the singular values.

    Args:
        model: the base.
        change: by the names of the weights in the backbone. A shared weight counts once, as an embedding.
    """
    prefix, output = f"{model.base_model_prefix}.", model.get_output_embeddings()
    modules = dict(model.named_modules())
    factors, layers, squares = {}, {}, {"linear": 0.0, "kept": 0.0}
    dropped: dict[str, float] = {}
    for name, _ in model.named_parameters():
        if (weight := change.get(name.removeprefix(prefix))) is None:
            continue
        owner = name.rpartition(".")[0]
        module, square = modules[owner], float(weight.square().sum())
        is_linear = isinstance(module, (nn.Linear, Conv1D)) and module is not output and weight.dim() == 2
        if not is_linear:
            kind = _kind(name, module)
            dropped[kind] = dropped.get(kind, 0.0) + square
            continue
        left, values, right = torch.linalg.svd(weight.T if isinstance(module, Conv1D) else weight, full_matrices=False)
        roots = values[:rank].sqrt()
        factors[owner] = Factors(roots[:, None] * right[:rank], left[:, :rank] * roots)
        layers[owner] = float(values[:rank].square().sum()) / square
        squares["linear"] += square
        squares["kept"] += layers[owner] * square
    total = squares["linear"] + sum(dropped.values()) or 1.0
    shares = {name: value / total for name, value in {**squares, **dropped}.items()}
    return Truncation(factors, shares.pop("kept"), shares.pop("linear"), shares, layers)


def _kind(name: str, module: nn.Module) -> str:
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if "norm" in type(module).__name__.lower():
        return "norms"
    return "biases" if name.endswith("bias") else "others"


def weighted_factors(
    model: PreTrainedModel, adapters: Sequence[tuple[Path, float]], settings: Mapping[str, Any]
) -> dict[str, Factors]:
    """Combine saved LoRA adapters without heads by PEFT's `add_weighted_adapter`; `model` must not be used later.

    Args:
        adapters: folders, with the weight of each.
        settings: the arguments of `add_weighted_adapter` besides these.

    Raises:
        UserError: PEFT cannot combine these adapters in this way.
    """
    found: Any = None
    try:
        for number, (folder, _) in enumerate(adapters):
            config = PeftConfig.from_pretrained(str(folder))
            config.modules_to_save = config.task_type = config.base_model_name_or_path = None
            if found is None:
                found = get_peft_model(model, config, adapter_name=str(number))  # type: ignore[arg-type]
            else:
                found.add_adapter(str(number), config)
            saved = load_peft_weights(str(folder), device="cpu")
            weights = {name: weight for name, weight in saved.items() if ".lora_" in name}
            if unused := set_peft_model_state_dict(found, weights, adapter_name=str(number)).unexpected_keys:
                raise ValueError(f"{folder} has {unused[0]}, which the model lacks")
        names, factors = [str(number) for number in range(len(adapters))], [weight for _, weight in adapters]
        found.base_model.add_weighted_adapter(names, factors, "combined", **settings)
    except ValueError as error:
        wrong = f"PEFT cannot combine these runs by {settings['combination_type']}: {error}"
        raise UserError(refusal(wrong.rstrip("."), "combine.method=exact")) from error
    # without the scaling of the new adapter: the factors contain that of each run, and for rsLoRA PEFT's is not 1
    return {
        name.removeprefix("base_model.model."): Factors(*map(torch.Tensor.detach, _matrices(layer)))
        for name, layer in found.named_modules()
        if isinstance(layer, LoraLayer) and "combined" in layer.scaling
    }


def changes_of_factors(model: PreTrainedModel, factors: Mapping[str, Factors]) -> dict[str, torch.Tensor]:
    """Return the change of each layer's weight by its matrices, by names in the backbone, in fp64."""
    found = {}
    for name, each in factors.items():
        change = each.b.double() @ each.a.double()
        is_transposed = isinstance(model.get_submodule(name), (Conv1D, nn.Embedding))
        found[f"{name.removeprefix(f'{model.base_model_prefix}.')}.weight"] = change.T if is_transposed else change
    return found


def is_plain_lora(folder: Path) -> bool:
    """Return whether a folder has a LoRA that is no more than its matrices: without DoRA, biases and other modules."""
    file = folder / "adapter_config.json"
    settings: Any = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    other = settings.get("use_dora"), settings.get("trainable_token_indices"), settings.get("target_parameters")
    saved = {*(settings.get("modules_to_save") or ())}
    heads = {name for name in saved if is_head(f"{name}.weight")}
    return settings.get("peft_type") == "LORA" and settings.get("bias") == "none" and not any(other) and saved == heads


def lora_model(model: PreTrainedModel, factors: Mapping[str, Factors], kind: str) -> PeftModel:
    """Return a model with a LoRA adapter of these matrices; its head is saved with the adapter.

    Args:
        model: the base, with the head that the adapter gets.
        factors: by the full names of modules.
        kind: of task, which selects the head.
    """
    rank = max(len(each.a) for each in factors.values())
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(factors))
    found: Any = apply_method(model, config, kind)
    with torch.no_grad():
        for name, layer in found.get_base_model().named_modules():
            if isinstance(layer, LoraLayer):
                for weight, value in zip(_matrices(layer, "default"), factors[name], strict=True):
                    weight.zero_()
                    weight[tuple(slice(size) for size in value.shape)] = value.to(weight.dtype)
    return found.eval()  # type: ignore[no-any-return]


def _matrices(layer: LoraLayer, adapter: str = "combined") -> tuple[torch.Tensor, torch.Tensor]:
    if adapter in layer.lora_A:
        return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
