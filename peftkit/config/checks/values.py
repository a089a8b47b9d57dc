"""Turn a composed config into every complaint about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from peftkit.config.checks.combinations import mismatches
from peftkit.config.checks.generation import generating
from peftkit.config.checks.judging import judging
from peftkit.config.checks.paths import ROW_RULES
from peftkit.config.checks.preferences import LOSSES
from peftkit.config.checks.task import METRICS_OF
from peftkit.config.kinds import KINDS
from peftkit.config.run import PROVENANCE, SECTIONS, RunConfig
from peftkit.config.signatures import Field, annotation, fields_of, names_in
from peftkit.config.suggestions import TRAINING, holds_keys, nearest, nearest_key, takes_list
from peftkit.config.traits import Traits

JOBS = (
    "finetune", "evaluate", "predict", "merge", "pretrain", "plan", "leaderboard", "submission", "matrix", "forgetting",
    "downstream", "extend", "embed", "generate", "judge",
)  # fmt: skip
METRICS = tuple(dict.fromkeys(name for names in METRICS_OF.values() for name in names))
CHOICES: dict[str, tuple[Any, ...]] = {
    "job": JOBS,
    "source": ("auto", "hub", "offline"),
    "claim": ("small_data", "prompt_scale", "lora_merge", "quantization", "by_task", None),
    "model.family": ("encoder", "decoder", "seq2seq"),
    "model.pooling": ("auto", "cls", "mean", None),
    "model.stand_in": ("minilm", "gpt2-mini", "t5-mini"),
    "task.kind": tuple(METRICS_OF),
    "task.sample_by": ("line", "document", None),
    "task.loss_type": (*LOSSES, None),
    "extend.init": ROW_RULES,
    "embed.pooling": ("mean", "cls", "last", None),
    "generate.algorithm": KINDS["instructions"].generators,
    "generate.generator": ("local", "endpoint"),
}
PACKAGES = ("peft", "peftkit")
UPSTREAM = ("train.", "method.config.", "method.quantization.", "generate.quantization.")
QUANTIZATION = "transformers.utils.quantization_config.BitsAndBytesConfig"
# the trackers that transformers knows, with the package of each
TRACKERS = {
    **dict.fromkeys(("none", "all"), ""),
    **{name: name for name in ("clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "kubeflow", "mlflow")},
    **{name: name for name in ("neptune", "swanlab", "tensorboard", "trackio", "wandb")},
    "azure_ml": "azureml",
    "flyte": "flytekit",
}
EXTRA = ("tensorboard", "wandb", "mlflow")
OWNED = {  # TrainingArguments that peftkit sets itself
    "output_dir": "out=",
    "seed": "seed=",
    "data_seed": "seed=",
    "remove_unused_columns": "nothing: peftkit chooses the columns",
    "resume_from_checkpoint": "nothing: the same command trains on from where it stopped",
    "do_train": "job=",
    "do_eval": "job=",
    "do_predict": "job=",
    "load_best_model_at_end": "early_stopping.patience=",
    "metric_for_best_model": "task.metrics=",
    "greater_is_better": "task.metrics=",
    "gradient_checkpointing": "train.activation_checkpointing=",
    "hub_token": "the environment variable HF_TOKEN: a run folder keeps no secret",
}


def _positive(value: float) -> bool:
    return 0 < value < float("inf")


RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {  # of values of the right type; null is none of them
    "seed": (lambda seed: 0 <= seed < 2**32, "it must be 0 or more, and below 2**32"),
    "early_stopping.holdout": (lambda share: 0 < share < 1, "it must be between 0 and 1"),
    "search.lr_multipliers": (
        lambda factors: bool(factors) and all(map(_positive, factors)),
        "it takes numbers above 0; say search.lr_multipliers=[0.3,1,3], or null",
    ),
    "search.samples": (_positive, "it must be 1 or more"),
    "distill.temperature": (_positive, "it must be above 0"),
    "distill.alpha": (lambda share: 0 <= share <= 1, "it must be between 0 and 1"),
    "model.keep_layers": (
        lambda layers: bool(layers) and layers == sorted(set(layers)) and layers[0] >= 0,
        "it takes layers from below, from 0 on; say model.keep_layers=[1,4], or null",
    ),
    "extend.budget": (lambda terms: terms >= 0, "it must be 0 terms or more"),
    "extend.min_count": (_positive, "it must be 1 or more"),
    "extend.pad_to_multiple_of": (_positive, "it must be 1 row or more, or null"),
    "embed.truncate_dim": (_positive, "it must be 1 or more, or null"),
    "embed.max_length": (lambda tokens: tokens > 2, "it must be 3 tokens or more, or null"),
    **{
        f"generate.{name}": (_positive, "it must be above 0")
        for name in (
            "num_instructions",
            "max_tokens",
            "max_cost",
            "batch",
            "max_new_tokens",
            "max_answer_tokens",
            "evolutions",
            "patience",
            "timeout",
        )
    },
    "generate.max_rouge_l": (lambda score: 0 < score <= 1, "it must be above 0, and 1 at most"),
    "generate.top_p": (lambda share: 0 < share <= 1, "it must be above 0, and 1 at most"),
    **{
        f"generate.{name}": (lambda value: 0 <= value < float("inf"), "it must be 0 or more")
        for name in ("temperature", "retries", "price_in", "price_out")
    },
    "generate.instruction_length": (
        lambda words: len(words) == 2 and 0 < words[0] <= words[1],
        "it takes the shortest and the longest; say generate.instruction_length=[3,150]",
    ),
    "early_stopping.patience": (_positive, "it must be 1 or more, or null"),
    "method.learning_rate": (_positive, "it must be above 0"),
    "task.max_length": (lambda tokens: tokens > 2, "it must be 3 tokens or more"),
    "task.max_target_length": (_positive, "it must be 1 token or more, or null"),
    "task.noise_density": (lambda share: 0 < share < 1, "it must be between 0 and 1"),
    "task.mean_noise_span_length": (lambda tokens: tokens >= 1, "it must be 1 token or more"),
    "task.stride": (lambda tokens: tokens >= 0, "it must be 0 tokens or more"),
    "task.max_train_samples": (_positive, "it must be 1 or more, or null"),
    "task.max_eval_samples": (_positive, "it must be 1 or more, or null"),
    "task.text": (bool, "it takes a column or more; say task.text=[first,second]"),
    "task.scale": (_positive, "it must be above 0"),
    "task.matryoshka_dims": (
        lambda widths: bool(widths) and min(widths) > 0,
        "it takes numbers above 0; say task.matryoshka_dims=[64,128]",
    ),
    "task.beta": (_positive, "it must be above 0"),
    "task.label_smoothing": (lambda share: 0 <= share < 0.5, "it must be 0 or more, and below 0.5"),
    "task.metrics": (bool, "it takes one or more; say task.metrics=[accuracy]"),
    "task.labels": (lambda names: len(set(names)) > 1, "it takes two names or more; say task.labels=[no,yes], or null"),
    **{
        f"train.{name}": (_positive, "it must be above 0")
        for name in (
            "learning_rate",
            "num_train_epochs",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "logging_steps",
        )
    },
}
Complaint = tuple[str, str]  # the key, and the sentence about it


def complaints(config: Mapping[str, Any]) -> list[str]:
    """Return everything that is wrong with a resolved config, each as a sentence; empty where nothing is."""
    found = [*_fields(config, RunConfig, "")]
    for name, part in SECTIONS.items():
        if isinstance(config.get(name), Mapping):
            found += _fields(config[name], part, f"{name}.")
    if isinstance(traits := _get(config, "method.traits"), Mapping):
        found += _fields(traits, Traits, "method.traits.")
    found += [*_targets(config), *_choices(config), *_training(_get(config, "train"))]
    found += _trackers(_get(config, "train"))
    for key in ("method.quantization", "generate.quantization"):
        found += _quantization(key, _get(config, key))
    found += [*_method_config(_get(config, "method.config"))]
    wrong = {key for key, _ in found}
    found += _ranges(config, wrong)
    sentences = [sentence for _, sentence in found]
    if all(key.startswith(UPSTREAM) for key in wrong):  # else there is no run to reason about
        run = RunConfig.from_config(config)
        sentences += [*mismatches(run), *generating(run), *judging(run)]
    return sentences


def _get(config: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    values = config.get(section)
    if not name:
        return values
    return values.get(name) if isinstance(values, Mapping) else None


def _fields(values: Mapping[str, Any], part: type, prefix: str) -> Iterator[Complaint]:
    known = {field.name: str(field.type) for field in dataclasses.fields(part) if field.name not in PROVENANCE}
    left_out = {
        field.name
        for field in dataclasses.fields(part)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    for name in values:
        if name not in known:
            yield f"{prefix}{name}", f"unknown key {prefix}{name}{nearest_key(f'{prefix}{name}')}"
    for name, kind in known.items():
        key, value = f"{prefix}{name}", values.get(name, "???")
        if name in left_out and name not in values:
            continue
        if value == "???":
            yield key, f"{key} is not set; say {key}=..."
        elif part is RunConfig and name in (*SECTIONS, "train"):
            if not isinstance(value, Mapping):
                yield key, holds_keys(name, _show(value))
        elif (wanted := annotation(kind, __name__).refuses(value)) is not None:
            is_one = isinstance(value, (str, int, float)) and takes_list(key)
            hint = f"; say {key}=[{value}]" if is_one else ""
            yield key, f"{key}={_show(value)} is wrong: it takes {wanted}{hint}"


def _choices(config: Mapping[str, Any]) -> Iterator[Complaint]:
    for key, known in CHOICES.items():
        value = _get(config, key)
        if isinstance(value, str) and value not in known and value != "???":
            yield key, f"{key}={_show(value)} is wrong{nearest(value, map(_show, known), f'{key}=')}"
    metrics = _get(config, "task.metrics")
    for metric in metrics if isinstance(metrics, list) else []:
        if isinstance(metric, str) and metric not in METRICS:
            yield "task.metrics", f"task.metrics={_show(metric)} is wrong{nearest(metric, METRICS)}"


def _ranges(config: Mapping[str, Any], wrong: set[str]) -> Iterator[Complaint]:
    for key, (holds, rule) in RANGES.items():
        value = None if key in wrong else _get(config, key)
        if value is not None and not holds(value):
            yield key, f"{key}={_show(value)} is wrong: {rule}"


def _training(values: Any) -> Iterator[Complaint]:
    known = fields_of(TRAINING) or {}
    for key, value in values.items() if isinstance(values, Mapping) else []:
        if key in OWNED:
            yield f"train.{key}", f"train.{key} is set by peftkit; use {OWNED[key]}"
        else:
            yield from _option(key, value, known, "train.", "transformers.TrainingArguments")


def _trackers(values: Any) -> Iterator[Complaint]:
    """Complain about a tracker that there is not, or that is not installed: every run would fail where it begins."""
    named = values.get("report_to") if isinstance(values, Mapping) else None
    for name in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
        if name not in TRACKERS:
            yield "train.report_to", f"train.report_to={_show(name)} is wrong{nearest(str(name), TRACKERS)}"
        elif (package := TRACKERS[name]) and find_spec(package) is None:
            hint = "pip install 'peftkit[trackers]'" if name in EXTRA else f"pip install {package.replace('_', '-')}"
            yield "train.report_to", f"train.report_to={name} needs the package {package}; {hint}"


def _quantization(section: str, values: Any) -> Iterator[Complaint]:
    known = fields_of(QUANTIZATION) or {}
    for key, value in values.items() if isinstance(values, Mapping) else []:
        yield from _option(key, value, known, f"{section}.", "transformers.BitsAndBytesConfig")


def _option(name: str, value: Any, known: Mapping[str, Field], prefix: str, owner: str) -> Iterator[Complaint]:
    key = f"{prefix}{name}"
    if name not in known:
        yield key, f"unknown option {key} of {owner}{nearest(str(name), known, prefix)}"
    elif (wanted := known[name].refuses(value)) is not None:
        yield key, f"{key}={_show(value)} is wrong: it takes {wanted}"


def _targets(node: Any, path: str = "") -> Iterator[Complaint]:
    """Refuse a _target_ that is no class of the allowed packages: a recipe from a stranger must not run code."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _targets(item, path)
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key == "_target_" and value != "???":
            yield from _target(str(value), path, node)
        else:
            yield from _targets(value, f"{path}{key}.")


def _target(target: str, path: str, node: Mapping[str, Any]) -> Iterator[Complaint]:
    package, _, rest = target.partition(".")
    key, name = f"{path}_target_", target.rpartition(".")[2]
    if package not in PACKAGES or not rest:
        yield key, f"{key}={target} is refused: recipes may only name classes of peft and peftkit"
    elif (known := fields_of(target)) is None:
        yield key, f"{key}={target}: there is no such class{nearest(name, names_in(package, 'Config'), f'{package}.')}"
    else:
        for option, value in node.items():
            if option != "_target_":
                yield from _option(option, value, known, path, target)


def _method_config(values: Any) -> Iterator[Complaint]:
    key = "method.config._target_"
    target = str(values.get("_target_", "???")) if isinstance(values, Mapping) else ""
    if target == "???":
        yield key, f"{key} is not set; say {key}=peft.LoraConfig, or choose method=lora"
    elif target.startswith("peft.") and not target.endswith("Config") and fields_of(target) is not None:
        hint = nearest(target.rpartition(".")[2], names_in("peft", "Config"), "peft.")
        yield key, f"{key}={target} is no config of a method{hint}"


def _show(value: Any) -> str:
    if value is None:
        return "null"
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)
