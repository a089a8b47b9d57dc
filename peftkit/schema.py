"""Turn a composed config into a typed run, or into every complaint about it, before anything loads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from peftkit.signatures import annotation, fields_of, names_in

JOBS = ("finetune", "evaluate", "predict", "merge", "pretrain", "plan", "leaderboard")
SOURCES = ("auto", "hub", "embedded")
FAMILIES = ("encoder", "decoder", "seq2seq")
POOLINGS = ("auto", "cls", "mean", None)
METRICS = ("accuracy", "f1", "macro_f1", "matthews_correlation", "pearson", "spearman", "mean_squared_error")
FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
TARGET_PACKAGES = ("peft", "peftkit")
OWNED = {  # TrainingArguments that peftkit sets itself
    "output_dir": "out=",
    "seed": "seed=",
    "data_seed": "seed=",
    "remove_unused_columns": "nothing: peftkit chooses the columns",
    "do_train": "job=",
    "do_eval": "job=",
    "do_predict": "job=",
    "load_best_model_at_end": "early_stopping.patience=",
    "metric_for_best_model": "task.metrics=",
    "greater_is_better": "task.metrics=",
    "gradient_checkpointing": "train.activation_checkpointing=",
}


class UserError(Exception):
    """Something that the user can mend; the message is one sentence that says what to type next."""


@dataclass
class Model:
    name: str
    checkpoint: str
    revision: str
    family: str
    pooling: str | None
    stand_in: str


@dataclass
class Method:
    name: str
    config: dict
    learning_rate: float
    quantization: dict | None
    refuses: dict


@dataclass
class Task:
    name: str
    suite: str
    dataset: str
    subset: str | None
    revision: str
    kind: str
    text: list[str]
    label: str
    labels: list[str] | None
    splits: dict
    metrics: list[str]
    template: str | None
    max_length: int
    max_train_rows: int | None
    max_eval_rows: int | None


@dataclass
class EarlyStopping:
    patience: int | None
    holdout: float


@dataclass
class Run:
    """One run, as the user chose it; the YAML under conf/ says what each key means and holds every default."""

    job: str
    source: str
    data_root: str | None
    seed: int
    out: str
    force: bool
    run: str | None
    input: str | None
    output: str | None
    early_stopping: EarlyStopping
    model: Model
    method: Method
    task: Task
    train: dict

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Run:
        """Build a run from a resolved config that `complaints` finds nothing wrong with."""
        values = {field.name: config[field.name] for field in dataclasses.fields(cls)}
        values |= {name: part(**config[name]) for name, part in SECTIONS.items()}
        return cls(**values)


SECTIONS: dict[str, type] = {"model": Model, "method": Method, "task": Task, "early_stopping": EarlyStopping}


def complaints(config: Mapping[str, Any]) -> list[str]:
    """Return everything that is wrong with a resolved config, each as a sentence; empty where nothing is."""
    found = _fields(config, Run, "")
    for name, part in SECTIONS.items():
        found += _fields(config.get(name, {}), part, f"{name}.")
    found += _training(config.get("train", {})) + _targets(config)
    try:
        run = Run.from_config(config)
    except (KeyError, TypeError):  # a key too many or too few, which is among the complaints by now
        return found
    is_typed = not found
    found += [*_choices(run), *_method_config(run.method)]
    return found + [*_ranges(run), *_combinations(run), *_files(run)] if is_typed else found


def nearest(word: str, known: Iterable[str], before: str = "") -> str:
    """Return ' (did you mean ...?)', or what there is where nothing is near."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {before}{close[0]}?"
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"; there are: {shown}"


def key_names(section: str) -> set[str]:
    """Return the keys of a section, or the top level's where it is empty."""
    part = SECTIONS[section] if section else Run
    return {field.name for field in dataclasses.fields(part)}


def _fields(values: Mapping[str, Any], part: type, prefix: str) -> list[str]:
    known = {field.name: str(field.type) for field in dataclasses.fields(part)}
    found = [f"unknown key {prefix}{key}{nearest(key, known, prefix)}" for key in values if key not in known]
    for name, kind in known.items():
        if name in SECTIONS or name not in values:
            if name not in values:
                found.append(f"{prefix}{name} is missing; set {prefix}{name}=")
            continue
        value = values[name]
        if value == "???":
            found.append(f"{prefix}{name} is not set; say {prefix}{name}=...")
        elif (wanted := annotation(kind, __name__).refuses(value)) is not None:
            found.append(f"{prefix}{name}={_show(value)} is wrong: it takes {wanted}")
    return found


def _training(values: Mapping[str, Any]) -> list[str]:
    known = fields_of("transformers.training_args.TrainingArguments") or {}
    found = []
    for key, value in values.items():
        if key in OWNED:
            found.append(f"train.{key} is set by peftkit; use {OWNED[key]}")
        elif key not in known:
            found.append(f"unknown option train.{key}{nearest(key, known, 'train.')}")
        elif (wanted := known[key].refuses(value)) is not None:
            found.append(f"train.{key}={_show(value)} is wrong: it takes {wanted}")
    return found


def _targets(node: Any, path: str = "") -> list[str]:
    """Refuse any _target_ outside the allowed packages: a recipe from a stranger must not run code."""
    if isinstance(node, Mapping):
        found = []
        for key, value in node.items():
            if key == "_target_" and value != "???" and str(value).split(".")[0] not in TARGET_PACKAGES:
                found.append(f"{path}_target_={value} is refused: only classes of peft and peftkit may be named")
            found += _targets(value, f"{path}{key}.")
        return found
    if isinstance(node, (list, tuple)):
        return [complaint for item in node for complaint in _targets(item, path)]
    return []


def _method_config(method: Method) -> list[str]:
    target = method.config.get("_target_")
    if target in (None, "???"):
        return ["method.config._target_ is not set; say method.config._target_=peft.LoraConfig, or choose method=lora"]
    if str(target).split(".")[0] not in TARGET_PACKAGES:
        return []  # refused above
    known = fields_of(target)
    if known is None:
        module, _, name = target.rpartition(".")
        return [f"there is no class {target}{nearest(name, names_in(module.split('.')[0], 'Config'), 'peft.')}"]
    found = []
    for key, value in method.config.items():
        if key == "_target_":
            continue
        if key not in known:
            found.append(f"unknown option method.config.{key} of {target}{nearest(key, known, 'method.config.')}")
        elif (wanted := known[key].refuses(value)) is not None:
            found.append(f"method.config.{key}={_show(value)} is wrong: it takes {wanted}")
    quantization = fields_of("transformers.utils.quantization_config.BitsAndBytesConfig") or {}
    for key in method.quantization or {}:
        if key not in quantization:
            found.append(
                f"unknown option method.quantization.{key}{nearest(key, quantization, 'method.quantization.')}"
            )
    return found


def _choices(run: Run) -> list[str]:
    choices: list[tuple[str, Any, tuple]] = [
        ("job", run.job, JOBS),
        ("source", run.source, SOURCES),
        ("model.family", run.model.family, FAMILIES),
        ("model.pooling", run.model.pooling, POOLINGS),
        ("task.kind", run.task.kind, ("classification", "regression")),
        *(("task.metrics", metric, METRICS) for metric in run.task.metrics),
    ]
    return [
        f"{key}={_show(value)} is wrong{nearest(str(value), map(str, known), f'{key}=')}"
        for key, value, known in choices
        if value not in known
    ]


def _ranges(run: Run) -> list[str]:
    train = run.train
    ranges = [
        (run.seed >= 0, f"seed={run.seed} must be 0 or more"),
        (0 < run.early_stopping.holdout < 1, f"early_stopping.holdout={run.early_stopping.holdout} must be in (0, 1)"),
        ((run.early_stopping.patience or 1) > 0, "early_stopping.patience must be 1 or more, or null"),
        (train.get("learning_rate", 1) > 0, f"train.learning_rate={train.get('learning_rate')} must be above 0"),
        (
            train.get("num_train_epochs", 1) > 0,
            f"train.num_train_epochs={train.get('num_train_epochs')} must be above 0",
        ),
        (train.get("per_device_train_batch_size", 1) > 0, "train.per_device_train_batch_size must be 1 or more"),
        (run.task.max_length > 2, f"task.max_length={run.task.max_length} must be 3 tokens or more"),
        ((run.task.max_train_rows or 1) > 0, "task.max_train_rows must be 1 or more, or null"),
        ((run.task.max_eval_rows or 1) > 0, "task.max_eval_rows must be 1 or more, or null"),
        (1 <= len(run.task.text) <= 2, "task.text takes one or two columns: task.text=[first,second]"),
        (bool(run.task.metrics), "task.metrics is empty; say task.metrics=[accuracy]"),
    ]
    return [sentence for holds, sentence in ranges if not holds]


def _combinations(run: Run) -> list[str]:
    found = []
    if run.job in ("finetune", "plan") and (reason := run.method.refuses.get(run.model.family)):
        found.append(f"method={run.method.name} does not work on model={run.model.name}: {reason}")
    if run.model.family != "encoder" and run.model.pooling in ("cls", "mean"):
        found.append(f"model.pooling={run.model.pooling} is for encoders; model={run.model.name} has its own way")
    if run.job in ("evaluate", "predict", "merge") and run.run is None:
        found.append(f"job={run.job} needs a run folder; say run=outputs/.../seed-0-...")
    if run.job == "predict" and run.input is None:
        found.append("job=predict needs input=FILE or input='a text'")
    if run.job == "finetune" and run.task.splits.get("train") is None:
        found.append(
            f"task={run.task.name} has no training rows; train on task=mnli, then job=evaluate run=DIR task=ax"
        )
    if run.task.kind == "regression" and {"accuracy", "f1", "macro_f1"} & set(run.task.metrics):
        found.append("task.kind=regression has no accuracy or F1; say task.metrics=[pearson,spearman]")
    if run.early_stopping.patience is not None and run.train.get("eval_strategy", "epoch") == "no":
        found.append("early_stopping.patience needs evaluations; drop train.eval_strategy=no")
    return found


def _files(run: Run) -> list[str]:
    found = []
    if run.run is not None and run.job in ("evaluate", "predict", "merge"):
        file = Path(run.run) / "result.json"
        if not file.is_file():
            found.append(
                f"{run.run} holds no result.json; run= names a run folder: outputs/<suite>/<task>/.../seed-0-..."
            )
        elif (status := json.loads(file.read_text())["meta"]["status"]) != "finished":
            found.append(f"the run {run.run} is {status}; finish it first: the same command trains on from there")
    if run.job not in ("finetune", "plan", "evaluate"):
        return found
    if run.data_root is not None:
        root = Path(run.data_root)
        if not root.is_dir():
            found.append(f"data_root={run.data_root} is no folder; name the one that holds {run.task.name}/")
        elif run.job != "evaluate" and not (root / run.task.name).is_dir():
            folders = [path.name for path in root.iterdir() if path.is_dir()]
            found.append(
                f"data_root={run.data_root} holds no {run.task.name}/{nearest(run.task.name, folders, 'task=')}"
            )
    elif (file := Path(run.task.dataset)).suffix in FILES and not file.is_file():
        found.append(f"there is no file {file}; set task.dataset")
    return found


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)
