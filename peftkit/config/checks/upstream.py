"""Checks of options of transformers, PEFT and bitsandbytes against the source of their classes."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from peftkit.config.checks.values import CHOICES, Found, as_typed, value_of
from peftkit.config.errors import refusal
from peftkit.config.own_code import code_errors, is_allowed, shipped_targets
from peftkit.config.signatures import Field, class_nodes, fields_of, module_trees
from peftkit.config.suggestions import TRAINING, as_sweep, nearest, renamed_key, with_hint

UPSTREAM = (
    "train.",
    "method.config.",
    "method.quantization.",
    "generate.quantization.",
    "task.generation.",
    "generate.generation.",
)
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
RESUMED_EXACTLY = "a resumed run must end as one that was not interrupted"
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
    "logging_nan_inf_filter": "a loss that is NaN or infinite stops the training",
    "gradient_checkpointing": "use train.activation_checkpointing=",
    "hub_token": "use the environment variable HF_TOKEN: run folders must not contain secrets",
    "save_only_model": f"drop it: {RESUMED_EXACTLY}",
    "ignore_data_skip": f"drop it: {RESUMED_EXACTLY}",
    "restore_callback_states_from_checkpoint": f"drop it: {RESUMED_EXACTLY}",
    "dataloader_in_order": f"drop it: {RESUMED_EXACTLY}",
    "dataloader_persistent_workers": f"drop it: {RESUMED_EXACTLY}",  # they would keep the noise of the first epoch
    "enable_jit_checkpoint": "use train.save_strategy=steps train.save_steps=100 for more checkpoints",
    "save_on_each_node": "use out= for a folder that all machines share",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
        "use hf upload NAME DIR/adapter once the run is finished",
    ),
}


def upstream_errors(config: Mapping[str, Any]) -> Iterator[Found]:
    """Yield a message for each unknown option or class, and each value that the option does not take."""
    packages = value_of(config, "allow_code") or []
    for message in code_errors(packages):
        yield "allow_code", message
    yield from target_errors(config, packages)
    yield from _collator_errors(value_of(config, "collator"))
    for section, owner in (
        ("train", TRAINING), ("method.quantization", QUANTIZATION), ("generate.quantization", QUANTIZATION)
    ):  # fmt: skip
        values, fields = value_of(config, section), fields_of(owner) or {}
        for name, value in values.items() if isinstance(values, Mapping) else []:
            if section == "train" and name in RESERVED:
                yield f"train.{name}", f"train.{name} is set by peftkit; {RESERVED[name]}"
            elif f"{section}.{name}" not in CHOICES or not isinstance(value, str):
                yield from _option_errors(name, value, fields, f"{section}.", f"transformers.{owner.split('.')[-1]}")
    yield from _tracker_errors(value_of(config, "train.report_to"), packages)
    yield from _method_errors(value_of(config, "method.config"))


def _option_errors(name: str, value: Any, fields: Mapping[str, Field], prefix: str, owner: str) -> Iterator[Found]:
    key = f"{prefix}{name}"
    if name not in fields:
        yield key, renamed_key(f"{key}: unknown option of {owner}", key, nearest(str(name), fields, prefix))
    elif (expected := fields[name].refuses(value)) is not None:
        wrong, fix = f"{key}={as_typed(value)}: expected {expected}", as_sweep(key, value, fields[name].refuses)
        yield key, refusal(wrong, fix) if fix else wrong


def _collator_errors(collator: Any) -> Iterator[Found]:
    if isinstance(collator, Mapping) and "_target_" not in collator:
        yield "collator", "collator has no class; set collator._target_=mymodule.Collator"


def _tracker_errors(named: Any, packages: Sequence[str]) -> Iterator[Found]:
    key = "train.report_to"
    for name in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
        package = TRACKERS.get(name)
        if "." in str(name):  # a callback of one's own
            yield from _class_errors(str(name), f"{key}=", {}, packages)
        elif package is None:
            yield key, with_hint(f"{key}={as_typed(name)}: unknown tracker", nearest(str(name), TRACKERS, f"{key}="))
        elif package and find_spec(package) is None:
            hint = "'peftkit[trackers]'" if name in EXTRA else package.replace("_", "-")
            yield key, f"{key}={name} needs the package {package}; pip install {hint}"


def target_errors(node: Any, packages: Sequence[str], path: str = "") -> Iterator[Found]:
    """Yield a message for each _target_, at any depth, that is no class of `is_allowed`: configs must not run code."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from target_errors(item, packages, path)
    for key, value in node.items() if isinstance(node, Mapping) else []:
        if key == "_target_" and value != "???":
            yield from _class_errors(str(value), f"{path}_target_=", node, packages)
        else:
            yield from target_errors(value, packages, f"{path}{key}.")


def _class_errors(target: str, typed: str, node: Mapping[str, Any], packages: Sequence[str]) -> Iterator[Found]:
    key, path, (package, _, name) = typed.rstrip("="), typed.removesuffix("_target_="), target.rpartition(".")
    top = target.partition(".")[0]
    if is_allowed(target, packages):
        fields = fields_of(target)
        if fields is None:
            classes = [node.name for each, tree in module_trees(top) if each == package for node in class_nodes(tree)]
            hint = nearest(name, classes, f"{key}={package}.") if classes else ""
            yield key, with_hint(f"{key}={target}: {package} has no class {name}", hint)
        for option, value in node.items() if fields is not None else ():
            if option != "_target_":
                yield from _option_errors(option, value, fields or {}, path, target)
    elif top in ("peft", "peftkit"):
        named = "PEFT" if top == "peft" else "a method of peftkit"
        hint = nearest(target, [each for each in shipped_targets() if each.startswith(f"{top}.")], f"{key}=")
        yield key, with_hint(f"{key}={target} is not the config class of {named}", hint)
    else:
        own = f"; if the code is your own, type allow_code=[{top}]" if package else ""
        own = f"; name its module too: {key}={packages[0]}.{name}" if packages and not package else own
        yield key, f"{key}={target} is refused: only classes of peft and peftkit are allowed{own}"


def _method_errors(values: Any) -> Iterator[Found]:
    key = "method.config._target_"
    target = str(values.get("_target_", "???")) if isinstance(values, Mapping) else ""
    if target == "???":
        yield key, refusal(f"{key} is not set", "method=lora", f"{key}=peft.LoraConfig")
