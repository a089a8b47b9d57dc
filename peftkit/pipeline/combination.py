"""Combinations of runs of one base: base + w1 (A - base) + w2 (B - base) + ... (Ilharco et al. 2023, section 2).

Bodies are combined. Each run keeps its head, which the base lacks; heads of one task are combined as a mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, set_seed

from peftkit.config import ModelConfig, refusal, refuse
from peftkit.config.console import log
from peftkit.config.progress import stage
from peftkit.config.sections import DENSITY_METHODS, LORA_METHODS, Combine
from peftkit.config.source import Source
from peftkit.config.suggestions import listed
from peftkit.methods import merge_adapter
from peftkit.methods.arithmetic import (
    Change,
    add_scaled,
    body_weights,
    change_of,
    distance,
    merge_changes,
    norm_of,
    set_body,
    shared_names,
)  # fmt: skip
from peftkit.methods.lora_factors import (
    Factors,
    changes_of_factors,
    is_plain_lora,
    lora_model,
    truncate,
    weighted_factors,
)
from peftkit.models.heads import head_weights
from peftkit.pipeline.artifacts import load_base, load_bundle
from peftkit.pipeline.build import TrainingBundle, head_kind
from peftkit.pipeline.foreign_adapters import load_foreign_adapter
from peftkit.results.run_result import RunResult

SUM_TOLERANCE = 1e-9  # of weights whose sum is 1


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter of another program, on the base of a run: it has a change, but no task to score."""

    folder: Path
    name: str  # on the Hub, or of the folder
    model: ModelConfig  # of the base
    base: Source


@dataclass(frozen=True)
class WeightedRun:
    """A run and the factor of its change."""

    run: RunResult | ForeignAdapter
    weight: float


class HeadShare(NamedTuple):
    """A run and the factor of its head."""

    run: RunResult
    weight: float


@dataclass(frozen=True)
class Target:
    """A task that a combination is scored on: the run with its settings and labels, and the runs that form its head."""

    run: RunResult
    heads: tuple[HeadShare, ...]


def targets_of(runs: Sequence[WeightedRun]) -> list[Target]:
    """Return what a combination is scored on: each run, or together all runs of a task whose weights add up to 1.

    Runs that were scored on other domains of a task are not together.
    """
    distinct: dict[Path, HeadShare] = {}
    for each in runs:
        if isinstance(each.run, RunResult):
            key = each.run.folder.resolve()
            distinct[key] = HeadShare(each.run, each.weight + (distinct[key].weight if key in distinct else 0.0))
    groups: dict[Any, list[HeadShare]] = {}
    for share in distinct.values():
        config, data = share.run.config, share.run.record["audit"]["sources"]["data"]["revision"]
        domains = (config.task.domain, config.domains.scored, *(config.task.shift or ()))
        task = (config.task.name, tuple(share.run.label_names or ()), data, domains)
        groups.setdefault(task, []).append(share)
    found = []
    for members in groups.values():
        heads = tuple(share for share in members if share.weight)
        if len(members) > 1 and abs(sum(share.weight for share in members) - 1) < SUM_TOLERANCE:
            found.append(Target(heads[0].run, heads))
        else:
            found += [Target(run, (HeadShare(run, 1.0),)) for run, _ in members]
    order = [run for run, _ in distinct.values()]
    return sorted(found, key=lambda target: order.index(target.run))


@dataclass(frozen=True)
class Sums:
    """The weighted sum of changes, the combination of them that is used, which may be another one, and their norms."""

    exact: Change
    used: Change
    norms: list[float]
    first: dict[str, str]  # of each weight the first of its names

    @property
    def norm(self) -> float:
        return norm_of(self.exact, self.first)

    def distance_to_sum(self, change: Change) -> float:
        """Return how far a change is from the exact sum, relative to it."""
        return distance(change, self.exact, self.first)


class Combination:
    """Runs with their weights, and how they are combined. Models are loaded when they are needed."""

    def __init__(self, runs: Sequence[WeightedRun], settings: Combine) -> None:
        self.runs, self.settings = runs, settings
        self.method = settings.method or "exact"

    @property
    def makes_adapter(self) -> bool:
        """Whether the result is a LoRA adapter."""
        return self.settings.extract_rank is not None or self.uses_lora

    @property
    def uses_lora(self) -> bool:
        """Whether PEFT combines the matrices of LoRA, and not the changes of weights."""
        return self.method in LORA_METHODS and all(is_plain_lora(_adapter_of(each.run)) for each in self.runs)

    @cached_property
    def sums(self) -> Sums:
        """The combined changes, in fp64: of one run at a time; TIES and DARE need all changes at once."""
        exact: Change = {}
        norms, kept = [], []
        shared: dict[str, str] = {}
        keeps = self.method != "exact" and not self.uses_lora
        with stage("adding the changes of the runs", len(self.runs)) as progress:
            for number, each in enumerate(self.runs):
                tuned, base, heads = _load_pair(each.run)
                before = body_weights(base, heads)
                change = change_of(body_weights(tuned, heads), before)
                shared |= shared_names(before)
                norms.append(norm_of(change, shared))
                add_scaled(exact, change, each.weight)
                kept += [change] if keeps else []
                progress.done = number + 1
        if not keeps:
            return Sums(exact, exact, norms, shared)
        refuse((self.method not in DENSITY_METHODS, refusal(f"{self.method} needs plain LoRA", "combine.method=exact")))
        self._set_seed()
        weights = [each.weight for each in self.runs]
        used = merge_changes(self.method, kept, weights, self._options("density", "majority_sign_method"), shared)
        return Sums(exact, used, norms, shared)

    def bundle(self, target: Target) -> tuple[TrainingBundle, dict[str, Any]]:
        """Return the model of a target, and what `combination` of result.json has about it."""
        bundle, base, heads = _load(target.run)
        record = {"method": self.method, "norm": self.sums.norm, "norms": self.sums.norms}
        head = _head(target, bundle.model, heads)
        if not self.makes_adapter:
            before = body_weights(base, heads)
            if absent := sorted(self.sums.used.keys() - before.keys()):
                log(f"   {target.run.folder} has no {listed(absent[:3])}: {len(absent)} changes are left out")
            set_body(bundle.model, heads, before, self.sums.used)
            _set_head(bundle.model, head)
            return bundle, {**record, "distance_to_sum": self.sums.distance_to_sum(self.sums.used)}
        factors, found = self._factors(target, base)
        _set_head(base, head)
        bundle.model = lora_model(base, factors, head_kind(target.run.config))
        return bundle, {**record, **found}

    def _factors(self, target: Target, base: PreTrainedModel) -> tuple[dict[str, Factors], dict[str, Any]]:
        """Return the matrices of the adapter that approximates the change, and what is recorded about it."""
        if self.settings.extract_rank is not None:
            found = truncate(base, self.sums.used, self.settings.extract_rank)
            refuse((not found.factors, refusal("the runs together change no linear layer", "~combine.extract_rank")))
            extraction = {"rank": self.settings.extract_rank, "kept": found.kept, "linear": found.linear}
            return found.factors, {"extraction": {**extraction, "dropped": found.dropped, "layers": found.layers}}
        self._set_seed()
        options = self._options("density", "majority_sign_method", "svd_rank")
        adapters = [(_adapter_of(each.run), each.weight) for each in self.runs]
        plain = load_base(target.run, _merged(target.run).tokenizer, quantized=False)
        factors = weighted_factors(plain, adapters, {"combination_type": self.method, **options})
        return factors, {"distance_to_sum": self.sums.distance_to_sum(changes_of_factors(base, factors))}

    def _options(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self.settings, name)) is not None}

    def _set_seed(self) -> None:
        """Set the seed with which DARE drops changes: that of the first run of peftkit."""
        set_seed(next(each.run.config.seed for each in self.runs if isinstance(each.run, RunResult)))


@torch.no_grad()
def _head(target: Target, model: PreTrainedModel, names: frozenset[str]) -> dict[str, torch.Tensor]:
    """Return the weights of a target's head: those of its run, or the weighted sum of several."""
    if len(target.heads) == 1:
        return {name: model.get_parameter(name).detach().clone() for name in names}
    sums = {name: torch.zeros_like(model.get_parameter(name), dtype=torch.float64) for name in names}
    for each in target.heads:
        other = _merged(each.run).model
        for name, value in sums.items():
            value.add_(other.get_parameter(name), alpha=each.weight)
    return sums


@torch.no_grad()
def _set_head(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> None:
    for name, value in weights.items():
        model.get_parameter(name).copy_(value)


def _adapter_of(run: RunResult | ForeignAdapter) -> Path:
    return run.folder / "adapter" if isinstance(run, RunResult) else run.folder


def _load_pair(run: RunResult | ForeignAdapter) -> tuple[PreTrainedModel, PreTrainedModel, frozenset[str]]:
    """Return a merged model, its base, and the names of the weights of their heads."""
    if isinstance(run, RunResult):
        bundle, base, heads = _load(run)
        return bundle.model, base, heads
    tuned, base = load_foreign_adapter(run.folder, run.model, run.base)
    return tuned, base, head_weights(base)


def _load(run: RunResult) -> tuple[TrainingBundle, PreTrainedModel, frozenset[str]]:
    """Return a run's merged model, its base, and the names of the weights of their heads."""
    bundle = _merged(run)
    base = load_base(run, bundle.tokenizer, quantized=False)
    return bundle, base, head_weights(base)


def _merged(run: RunResult) -> TrainingBundle:
    bundle = load_bundle(run, quantized=False)
    bundle.model = merge_adapter(bundle.model).eval()
    return bundle
