"""The objective over the domains of a run's training examples."""

from dataclasses import replace
from typing import Any

from datasets import Dataset

from peftkit import training
from peftkit.config import RunConfig, UserError, kind_of, refusal
from peftkit.config.kinds import DECODER
from peftkit.data.domains import domain_ids
from peftkit.data.formats import Encoded
from peftkit.models.classifiers import MeanPooling


def with_domain_ids(config: RunConfig, encoded: Encoded, examples: Dataset) -> Encoded:
    """Return encoded training examples with the numbers of their domains, where an objective needs them.

    Raises:
        UserError: they have a single domain.
    """
    if config.domains.objective is None:
        return encoded
    names, ids = domain_ids(examples)
    if len(names) < 2:
        key = f"domains.objective={config.domains.objective}"
        wrong = f"{key} needs two domains to train on, and there is one, {names[0]}"
        raise UserError(refusal(wrong, "~domains.objective"))
    return replace(encoded, inputs=encoded.inputs.add_column(training.DOMAIN_COLUMN, ids), domains=names)


def domain_objective(config: RunConfig, model: Any, encoded: Encoded) -> training.DomainLoss | None:
    """Return the objective over the domains of encoded training examples, None where the config sets none."""
    domains = config.domains
    if domains.objective is None:
        return None
    if domains.objective == "group_dro":
        return training.GroupDROLoss(encoded.domains, domains.step_size)
    size, pooling = model.config.hidden_size, _head_pooling(config, model)
    loss = training.DomainConfusionLoss if domains.objective == "confusion" else training.DomainAdversarialLoss
    return loss(encoded.domains, size, pooling, domains.max_lambda)


def _head_pooling(config: RunConfig, model: Any) -> str:
    """Return what the head reads of the states of the tokens."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if isinstance(base, MeanPooling) or not kind_of(config.task).has_sequence_head:
        return "mean"
    return "last" if config.model.family == DECODER else "cls"
