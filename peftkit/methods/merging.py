"""Merging an adapter into its base; matrices that were tied are kept apart where merging changed only one of them."""

from collections import defaultdict

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from peftkit.compat.peft import ModulesToSaveWrapper, ignored_tie_warnings, merge_error, unwrap_saved_module
from peftkit.config import UserError


def is_mergeable(model: nn.Module) -> bool:
    """Return whether the method's weights can be merged into the base."""
    tuner = model.base_model if isinstance(model, PeftModel) else None
    return tuner is None or (isinstance(tuner, BaseTuner) and merge_error(tuner) is None)


def merge_adapter(model: nn.Module) -> nn.Module:
    """Merge the adapter into its base and return a plain model, which `save_pretrained` and `from_pretrained` preserve.

    Raises:
        UserError: the method's weights cannot be merged into the base.
    """
    if not is_mergeable(model):
        kind = str(model.active_peft_config.peft_type.value).lower()  # type: ignore[union-attr, operator]
        raise UserError(
            f"{kind} cannot be merged: it is not a linear change of the base's weights; "
            "keep the adapter folder, or train method=lora or method=ia3"
        )
    if not isinstance(model, PeftModel):
        return model
    base = model.get_base_model()
    is_tied = getattr(base.config, "tie_word_embeddings", False)
    copy_shared_weights(base)
    for name, module in list(base.named_modules()):
        # PEFT would set a weight on a head, which RoBERTa's does not have; LN tuning would leave it in its wrapper
        if isinstance(module, ModulesToSaveWrapper):
            base.set_submodule(name, unwrap_saved_module(module))
    try:
        with ignored_tie_warnings():
            merged: PreTrainedModel = model.merge_and_unload()  # type: ignore[operator]
    except (RuntimeError, ValueError, NotImplementedError) as error:  # such as a trained bias where the base has none
        raise UserError(f"the adapter cannot be merged: {error}; use the adapter folder") from error
    merged.config.tie_word_embeddings = is_tied  # PEFT sets it to False, by which UMT5 scales its outputs
    tie_equal_weights(merged)
    return merged


def copy_shared_weights(model: nn.Module) -> None:
    """Give each module its own copy of a weight that several share: merging in place would change it for all."""
    owners = defaultdict(list)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            owners[weight].append((module, name))
    for weight, places in owners.items():
        for module, name in places[1:]:
            setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad))


def tie_equal_weights(model: PreTrainedModel) -> None:
    """Tie the weights again that are still equal, or record in the config that the embeddings are no longer tied.

    `from_pretrained` leaves weights apart that are both in the file and differ, also where the config cannot record it.
    Where it can, nothing is tied, and every weight must be in the file: also the bias of BERT's decoder.
    """
    pairs = model.get_expanded_tied_weights_keys(all_submodels=True)
    weights = {name: model.get_parameter(name) for name in {*pairs, *pairs.values()}}
    equal = {target: source for target, source in pairs.items() if torch.equal(weights[target], weights[source])}
    if len(equal) < len(pairs) and _can_untie(model.config):
        model.config.tie_word_embeddings = False
        return
    for target, source in equal.items():
        module, _, name = target.rpartition(".")
        setattr(model.get_submodule(module), name, weights[source])


def _can_untie(config: PretrainedConfig) -> bool:
    """Return whether a config keeps `tie_word_embeddings=False`; T5, mT5 and UMT5 set it to True."""
    return not type(config).from_dict({**config.to_dict(), "tie_word_embeddings": False}).tie_word_embeddings
