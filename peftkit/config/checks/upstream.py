"""Checks of options of transformers, PEFT and bitsandbytes against the source of their classes."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from peftkit.config.checks.values import Found, as_typed, value_of
from peftkit.config.signatures import Field, fields_of, names_in
from peftkit.config.suggestions import TRAINING, nearest

PACKAGES = ("peft", "peftkit")  # whose classes a _target_ may name
UPSTREAM = ("train.", "method.config.", "method.quantization.", "generate.quantization.")
QUANTIZATION = "transformers.utils.quantization_config.BitsAndBytesConfig"
# the trackers of transformers, with the package of each
TRACKERS = {
    **dict.fromkeys(("none", "all"), ""),
    **{name: name for name in ("clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "kubeflow", "mlflow")},
    **{name: name for name in ("neptune", "swanlab", "tensorboard", "trackio", "wandb")},
    "azure_ml": "azureml",
    "flyte": "flytekit",
}
EXTRA = ("tensorboard", "wandb", "mlflow")  # installed by peftkit[trackers]
RESERVED = {  # TrainingArguments that peftkit sets itself, with what to do instead
    "output_dir": "use out=",
    "seed": "use seed=",
    "data_seed": "use seed=",
    "remove_unused_columns": "it is not configurable",
    "resume_from_checkpoint": "the same command resumes an unfinished run",
    "do_train": "use job=",
    "do_eval": "use job=",
    "do_predict": "use job=",
    "load_best_model_at_end": "use early_stopping.patience=",
    "metric_for_best_model": "use task.metrics=",
    "greater_is_better": "use task.metrics=",
    "gradient_checkpointing": "use train.activation_checkpointing=",
    "hub_token": "use the environment variable HF_TOKEN: run folders must not contain secrets",
}


def upstream_errors(config: Mapping[str, Any]) -> Iterator[Found]:
    """Yield a message for each unknown option or class, and each value that the option does not take."""
    yield from _target_errors(config)
    for section, owner in (
        ("train", TRAINING), ("method.quantization", QUANTIZATION), ("generate.quantization", QUANTIZATION)
    ):  # fmt: skip
        values, fields = value_of(config, section), fields_of(owner) or {}
        for name, value in values.items() if isinstance(values, Mapping) else []:
            if section == "train" and name in RESERVED:
                yield f"train.{name}", f"train.{name} is set by peftkit; {RESERVED[name]}"
            else:
                yield from _option_errors(name, value, fields, f"{section}.", f"transformers.{owner.split('.')[-1]}")
    yield from _tracker_errors(value_of(config, "train.report_to"))
    yield from _method_errors(value_of(config, "method.config"))


def _option_errors(name: str, value: Any, fields: Mapping[str, Field], prefix: str, owner: str) -> Iterator[Found]:
    key = f"{prefix}{name}"
    if name not in fields:
        yield key, f"{key}: unknown option of {owner}{nearest(str(name), fields, prefix)}"
    elif (expected := fields[name].refuses(value)) is not None:
        yield key, f"{key}={as_typed(value)}: expected {expected}"


def _tracker_errors(named: Any) -> Iterator[Found]:
    key = "train.report_to"
    for name in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
        package = TRACKERS.get(name)
        if package is None:
            yield key, f"{key}={as_typed(name)}: unknown tracker{nearest(str(name), TRACKERS)}"
        elif package and find_spec(package) is None:
            hint = "'peftkit[trackers]'" if name in EXTRA else package.replace("_", "-")
            yield key, f"{key}={name} needs the package {package}; pip install {hint}"


def _target_errors(node: Any, path: str = "") -> Iterator[Found]:
    """Refuse a _target_ outside the allowed packages: third-party recipes must not run code."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _target_errors(item, path)
    for key, value in node.items() if isinstance(node, Mapping) else []:
        if key == "_target_" and value != "???":
            yield from _class_errors(str(value), path, node)
        else:
            yield from _target_errors(value, f"{path}{key}.")


def _class_errors(target: str, path: str, node: Mapping[str, Any]) -> Iterator[Found]:
    package, _, rest = target.partition(".")
    key, name = f"{path}_target_", target.rpartition(".")[2]
    if package not in PACKAGES or not rest:
        yield key, f"{key}={target} is refused: only classes of peft and peftkit are allowed"
    elif (fields := fields_of(target)) is None:
        yield key, f"{key}={target}: unknown class{nearest(name, names_in(package, 'Config'), f'{package}.')}"
    else:
        for option, value in node.items():
            if option != "_target_":
                yield from _option_errors(option, value, fields, path, target)


def _method_errors(values: Any) -> Iterator[Found]:
    key = "method.config._target_"
    target = str(values.get("_target_", "???")) if isinstance(values, Mapping) else ""
    if target == "???":
        yield key, f"{key} is not set; set {key}=peft.LoraConfig, or use method=lora"
    elif target.startswith("peft.") and not target.endswith("Config") and fields_of(target) is not None:
        hint = nearest(target.rpartition(".")[2], names_in("peft", "Config"), "peft.")
        yield key, f"{key}={target} is not the config class of a method{hint}"
