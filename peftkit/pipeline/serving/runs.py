"""The runs that a server answers with: loaded once, over shared weights, grouped where they can share batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import xxhash
from torch import nn

from peftkit import training
from peftkit.config import RunConfig, UserError
from peftkit.config.console import log
from peftkit.methods import is_mergeable, merge_adapter
from peftkit.pipeline.artifacts import load_with, with_eval_settings, with_generation
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.comparison import TOLERANCE, max_difference
from peftkit.pipeline.confidence import choose_threshold, has_confidence, log_uncalibrated
from peftkit.pipeline.evaluate import predictor
from peftkit.pipeline.inputs import input_columns
from peftkit.pipeline.merged import random_token_scores
from peftkit.pipeline.mixing import MixedModel, base_key, load_mixed, mixing_error
from peftkit.results.run_result import RunResult


@dataclass(frozen=True)
class ServedRun:
    """A loaded run.

    Args:
        name: by which requests choose it.
        config: its config, with the batch size and the precision of the server.
        trainer: that only predicts.
        threshold: the confidence below which an answer is left to a person.
        mixed: the model of the runs that share batches with it.
    """

    name: str
    run: RunResult
    config: RunConfig
    bundle: TrainingBundle
    trainer: training.ScoringTrainer
    threshold: float | None
    mixed: MixedModel | None = None

    @property
    def columns(self) -> list[str]:
        """The fields of an example."""
        return input_columns(self.config.task)

    def describe(self) -> dict[str, Any]:
        """Return what a client needs to know about the run."""
        task, labels = self.config.task, self.run.label_names
        return {
            "name": self.name,
            "task": task.name,
            "kind": task.kind,
            "model": self.run.source.name if self.run.source.kind != "folder" else self.config.model.name,
            "method": self.config.method.name,
            "columns": self.columns,
            "labels": labels,
            "max_length": task.max_length,
            "threshold": self.threshold,
            "calibrated": bool(self.run.record.get("calibration")) if has_confidence(self.run) else None,
        }


def load_runs(config: RunConfig) -> dict[str, ServedRun]:
    """Load the runs of a config by their names; what their weights have in common is in memory once.

    Raises:
        UserError: a run cannot be loaded.
    """
    folders = [config.run] if config.run is not None else config.runs or []
    runs = named_runs([RunResult.finished(folder) for folder in folders])
    chosen = {name: _with_settings(config, run.config) for name, run in runs.items()}
    thresholds = {name: choose_threshold(config, run, name if len(runs) > 1 else None) for name, run in runs.items()}
    served: dict[str, ServedRun] = {}
    shared: dict[Any, torch.Tensor] = {}
    for names in _groups(runs):
        mixed = _load_mixed({name: runs[name] for name in names}, chosen) if len(names) > 1 else None
        for name in names:
            is_single = config.run is not None
            bundle = _load_alone(runs[name], chosen[name], is_single) if mixed is None else mixed.bundles[name]
            trainer = predictor(chosen[name], bundle) if mixed is None else mixed.trainers[name]
            share_weights(bundle.model, shared)  # on the device, to which the trainer moved it
            served[name] = ServedRun(name, runs[name], chosen[name], bundle, trainer, thresholds[name], mixed)
    for run in runs.values():
        log_uncalibrated(run)
    return {name: served[name] for name in runs}


def named_runs(runs: Sequence[RunResult]) -> dict[str, RunResult]:
    """Return runs by their task, with as much of method, model, seed and folder as distinguishes those of one task."""
    found: dict[str, RunResult] = {}
    of_task: dict[str, list[RunResult]] = {}
    for run in runs:
        of_task.setdefault(run.config.task.name, []).append(run)
    for same in of_task.values():
        found |= dict(zip(_distinct_names(same), same, strict=True))
    return {name: run for each in runs for name, run in found.items() if run is each}


def _distinct_names(runs: Sequence[RunResult]) -> list[str]:
    """Return the name of each run of one task."""
    configs = [run.config for run in runs]
    parts = [
        (each.task.name, each.method.name, each.model.name, f"seed-{each.seed}", run.folder.name, str(number))
        for number, (each, run) in enumerate(zip(configs, runs, strict=True), start=1)
    ]
    names: list[str] = []
    for count in range(1, len(parts[0]) + 1):
        kept = [place for place in range(count) if place == 0 or len({each[place] for each in parts}) > 1]
        names = ["-".join(each[place] for place in kept) for each in parts]
        if len({*names}) == len(names):
            break
    return names


def share_weights(model: nn.Module, known: dict[Any, torch.Tensor]) -> None:
    """Let weights of a model with the content of known ones use their memory, and add the others to the known ones.

    Models that only predict do not change their weights, so that any of them can share: those of a frozen base, and
    of a whole checkpoint those that its training left as they were. Packed weights of a quantized base are not shared.
    """
    for parameter in model.parameters():
        if type(parameter) is not nn.Parameter:
            continue
        data = parameter.data.contiguous()
        digest = xxhash.xxh3_128_digest(data.view(-1).view(torch.uint8).cpu().numpy())
        found = known.setdefault((data.shape, data.dtype, data.device, digest), data)
        if found is not data and torch.equal(found, data):
            parameter.data = found


def _groups(runs: dict[str, RunResult]) -> list[list[str]]:
    """Return the names of runs that may share batches together, those of other runs alone."""
    groups: dict[Any, list[str]] = {}
    for name, run in runs.items():
        method = run.config.method.config["_target_"]
        key = name if mixing_error(run) is not None else (base_key(run), method)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _load_alone(run: RunResult, config: RunConfig, merges: bool) -> TrainingBundle:
    """Load a run whose batches have no examples of others.

    Args:
        merges: whether to merge its adapter, which takes a third of the time away; merged weights cannot be shared.
    """
    bundle, method = load_with(run, config), run.config.method
    is_fp32 = training.precision_of(config.train) == "fp32" and method.quantization is None
    has_adapter = (run.folder / "adapter").is_dir()
    if not (merges and is_fp32 and has_adapter and is_mergeable(bundle.model)):
        return bundle
    before = random_token_scores(bundle.model)
    try:
        bundle.model = merge_adapter(bundle.model).eval()
        difference = max_difference(before, random_token_scores(bundle.model))
    except UserError:
        difference = math.inf
    return bundle if difference <= TOLERANCE["fp32"] else load_with(run, config)


def _load_mixed(runs: dict[str, RunResult], configs: dict[str, RunConfig]) -> MixedModel | None:
    try:
        return load_mixed(runs, {name: configs[name] for name in runs})
    except UserError as error:  # such as heads of several layers
        log(f"{', '.join(runs)} do not share batches: {error}")
        return None


def _with_settings(config: RunConfig, trained: RunConfig) -> RunConfig:
    """Return the config of a run with the settings of this command.

    It is in fp32 unless another precision is set, so that answers do not depend on their batch.
    """
    train = {"bf16": False, **config.train}
    return with_generation(config, with_eval_settings(replace(config, train=train), trained))
