"""The typed config of one run. The YAML under conf/ documents each key and holds every default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from peftkit.config.errors import UserError, error_summary
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import kind_of
from peftkit.config.later_keys import with_later_keys
from peftkit.config.sections import (
    Bench,
    Chat,
    Combine,
    Domains,
    Embed,
    Export,
    Extend,
    Filter,
    Generate,
    MultiTask,
    Ood,
    Planning,
    Predict,
    Prune,
    Push,
    Serve,
)
from peftkit.config.task import TaskConfig
from peftkit.config.traits import Traits, traits_of


@dataclass
class ModelConfig:
    name: str
    checkpoint: str
    revision: str
    family: str
    pooling: str | None
    stand_in: str
    learning_rates: dict
    keep_layers: list[int] | None
    attn_implementation: str | None = None  # this and the next are not in a model YAML of an earlier version
    pairs: str | None = None


@dataclass
class MethodConfig:
    name: str
    config: dict
    learning_rate: float
    quantization: dict | None
    refuses: dict
    paper: str | None = None
    loraplus_lr_ratio: float | None = None
    traits: Traits = field(default_factory=dict)  # type: ignore[assignment]  # completed below

    def __post_init__(self) -> None:
        if isinstance(self.traits, Mapping):
            self.traits = traits_of(self.config, self.traits)


@dataclass
class EarlyStopping:
    patience: int | None
    holdout: float


@dataclass
class Calibration:
    holdout: float | None
    thresholds: bool | None


@dataclass
class Search:
    """What the trials of a search try, in every combination: learning rates, and values of method.config."""

    lr_multipliers: list[float] | None
    samples: int
    learning_rates: list[float] | None
    config: dict | None
    halving_factor: int | None

    @property
    def is_set(self) -> bool:
        return self.lr_multipliers is not None or self.learning_rates is not None or bool(self.config)


@dataclass
class Distill:
    teacher: str | None
    temperature: float
    alpha: float


@dataclass
class RunConfig:
    """The settings of one run, which are the keys of config.yaml, and their provenance."""

    job: str
    source: str
    data_root: str | None
    seed: int
    threads: int | None
    workers: int | Literal["auto"] | None
    sequential_seeds: bool
    trial: bool
    out: str
    force: bool
    run: str | None
    start: str | None
    claim: str | None
    runs: list[str] | None
    weights: list[float] | None
    results: list[str] | None
    watch: bool
    input: str | None
    output: str | None
    format: str | None
    repo: str | None
    vocab: str | None
    cache_features: bool
    model: ModelConfig
    method: MethodConfig
    task: TaskConfig  # of several tasks the first one's, under the name of all: see `joined_task`
    tasks: list[TaskConfig] | None
    early_stopping: EarlyStopping
    calibration: Calibration
    search: Search
    distill: Distill
    domains: Domains
    multitask: MultiTask
    plan: Planning
    bench: Bench
    extend: Extend
    ood: Ood
    embed: Embed
    predict: Predict
    chat: Chat
    combine: Combine
    prune: Prune
    export: Export
    push: Push
    serve: Serve
    generate: Generate
    train: dict
    collator: dict | None
    allow_code: list[str] | None
    filter: Filter
    delete: bool | str | None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()  # as typed; provenance only
    config_dir: str | None = None  # DIR of -cd DIR

    @property
    def is_cross_validation(self) -> bool:
        """Return whether this run trains once for each fold or domain, and pools their predictions."""
        return (self.task.folds is not None and self.task.fold is None) or self.domains.leaves_each_out

    @property
    def is_multitask(self) -> bool:
        """Return whether this is the run of all `tasks`; the result of one of them has that as its `task`."""
        return self.tasks is not None and self.task not in self.tasks

    @property
    def keeps_model(self) -> bool:
        """Return whether the trained weights are saved, unlike those of a trial or of a fold."""
        return not self.trial and self.task.folds is None and not self.domains.leaves_each_out

    @property
    def caches_features(self) -> bool:
        """Return whether the states of a frozen base are computed once, without dropout."""
        changed = self.collator, self.method.quantization, self.model.pairs
        changed += tuple(self.train.get(name) for name in CHANGES_STATES)
        is_alone = self.tasks is None
        return self.cache_features and is_alone and self.method.traits.frozen_base and not any(changed)

    @property
    def generates_data(self) -> bool:
        """Return whether this run trains on data that job=generate makes first."""
        return JOBS[self.job].trains and self.task.dataset in kind_of(self.task).generators

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        recipe: str | None = None,
        overrides: Sequence[str] = (),
        config_dir: str | None = None,
    ) -> RunConfig:
        """Return the typed form of a resolved config.

        Raises:
            UserError: the config has other keys than this version of peftkit, such as those of earlier versions.
        """
        try:
            config = with_later_keys(config)
            sections: dict[str, Any] = {name: section(**config[name]) for name, section in SECTIONS.items()}
            if sections["task"].text == "???":  # of a job that guesses the columns
                sections["task"].text = []
            if config["tasks"] is not None:
                sections["tasks"] = [TaskConfig(**each) for each in config["tasks"]]
            return cls(
                **{**config, **sections},
                recipe=recipe,
                overrides=tuple(overrides),
                config_dir=config_dir,
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"this config is of another version of peftkit ({error_summary(error)}); train the run again"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain values, for config.yaml and result.json; provenance is recorded separately."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in PROVENANCE}
        return values | {"allow_code": None}  # who reads a run folder opens its code, not the folder


def is_prompted(run: RunConfig) -> bool:
    """Return whether nothing trains and the pretrained model answers a prompt."""
    return run.method.traits.prompted


CHANGES_STATES = ("neftune_noise_alpha", "torch_compile", "fsdp", "deepspeed")  # training arguments

SECTIONS: dict[str, type] = {
    "model": ModelConfig, "method": MethodConfig, "task": TaskConfig, "early_stopping": EarlyStopping,
    "calibration": Calibration, "search": Search, "extend": Extend, "embed": Embed, "ood": Ood, "generate": Generate,
    "distill": Distill, "domains": Domains, "predict": Predict, "filter": Filter, "plan": Planning, "bench": Bench,
    "combine": Combine, "prune": Prune, "multitask": MultiTask, "export": Export,
    "push": Push, "serve": Serve, "chat": Chat,
}  # fmt: skip

MULTITASK_CHOICES = {
    "adapter": ("shared", "per_task", "shared_and_per_task"),
    "mixing": ("proportional", "temperature", "equal"),
    "batches": ("homogeneous", "mixed"),
}

PROVENANCE = ("recipe", "overrides", "config_dir")  # fields of RunConfig that are not keys

# keys that do not change a result, so they are not part of its id or of its entry on a board
NON_RESULT_KEYS = {
    "ood", "chat", "format", "export", "serve",
    "job", "out", "force", "run", "runs", "results", "watch", "claim", "vocab", "extend", "embed", "predict", "plan",
    "generate", "bench", "start", "input", "output", "allow_code", "filter", "delete", "source", "data_root",
    "method.paper", "method.traits", "combine.interpolate", "cache_features", "threads", "workers",
    "sequential_seeds", "push", "repo",
    *(f"method.traits.{each.name}" for each in dataclasses.fields(Traits)),
} | {
    f"train.{name}"
    for name in (
        "report_to", "run_name", "logging_steps", "logging_strategy", "logging_dir", "disable_tqdm", "log_level",
        "per_device_eval_batch_size", "save_strategy", "save_steps", "save_total_limit", "dataloader_num_workers",
        "auto_find_batch_size",
    )
}  # fmt: skip
