"""Traits of a method: properties on which validation, training and export depend, and not on its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftkit.config.signatures import fields_of


@dataclass(frozen=True)
class Traits:
    """Properties of a method. `conf/method/*.yaml` lists the traits that `traits_of` cannot derive.

    Args:
        trains: weights train; otherwise the pretrained model is scored unchanged.
        prompted: the pretrained language model answers a prompt, and nothing trains.
        adapter: saved in PEFT's format, without its base; otherwise as a whole checkpoint.
        mergeable: the trained weights can be merged into the base.
        mixed_batch: each example of a batch can have its own adapter (PEFT's `adapter_names`).
        packable: trains on several examples packed in one sequence; with a soft prompt, each of them needs its own.
        lengthens_text: virtual tokens are part of the sequence that the head and the loss receive (PEFT's own prompts).
        new_tokens: can train the embedding rows of new tokens (`vocab=`).
        regularized: adds a regularizer to the loss that the model itself computes, so no other loss can replace it.
        scheduled: needs the number of optimizer steps in its config, and updates every step.
        frozen_base: the base below the head is unchanged, so that its states are computed once for each example.
        estimator: the head is fitted at once by scikit-learn, without epochs.
        reads_words: reads words of the training examples, and no checkpoint.
        reads_embeddings: reads the input embeddings of the checkpoint only.
    """

    trains: bool = True
    prompted: bool = False
    adapter: bool = True
    mergeable: bool = True
    mixed_batch: bool = False
    packable: bool = True
    lengthens_text: bool = False
    new_tokens: bool = False
    regularized: bool = False
    scheduled: bool = False
    frozen_base: bool = False
    estimator: bool = False
    reads_words: bool = False
    reads_embeddings: bool = False

    @property
    def has_own_model(self) -> bool:
        """Whether the model is not that of the checkpoint, with layers of its own."""
        return self.reads_words or self.reads_embeddings


def traits_of(config: Mapping[str, Any], given: Mapping[str, bool]) -> Traits:
    """Return the traits of a method: `given` ones, the rest from the fields that the class of its config has.

    The fields identify what matters of PEFT's own methods, so that `method=peft` and a YAML of a few lines work for
    any of them: soft prompts have virtual tokens, AdaLoRA a schedule and an orthogonality regularizer.
    """
    target = str(config.get("_target_"))
    fields = fields_of(target) or {}
    has_virtual_tokens = target.startswith("peft.") and "num_virtual_tokens" in fields
    derived = {
        "mergeable": not has_virtual_tokens and "adapter_len" not in fields,
        # of PEFT's tuners only LoRA's layers apply `adapter_names`, and not with DoRA: docs/reference/matrix.md
        "mixed_batch": "use_dora" in fields and "total_step" not in fields and not config.get("use_dora"),
        "packable": not has_virtual_tokens,
        "lengthens_text": has_virtual_tokens,
        "new_tokens": not fields.keys().isdisjoint(("trainable_token_indices", "token_indices")),
        "regularized": "orth_reg_weight" in fields,
        "scheduled": "total_step" in fields,
    }
    return Traits(**{**derived, **given})
