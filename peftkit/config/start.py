"""The run or adapter whose weights a run starts from (`start=`): its folder, its base and its settings."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.config.checks.run_folders import AGAIN, recorded_config
from peftkit.config.checks.untrusted import adapter_errors
from peftkit.config.errors import UserError, error_summary, refusal
from peftkit.config.families import family_of
from peftkit.config.json_files import read_json
from peftkit.config.kinds import ENCODER
from peftkit.config.run import RunConfig
from peftkit.config.signatures import fields_of, names_in
from peftkit.config.source import ADAPTER_FILE, fingerprint, hub_is_reachable
from peftkit.config.yaml_files import read_yaml
from peftkit.paths import exists, group_files, is_file, is_folder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CHOSEN_MODULES = {"target_modules", "feedforward_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
PEFT_CLASSES = {"P_TUNING": "PromptEncoderConfig"}  # of types that are not named after their class
# fields of an adapter's config that are no choice of the method: provenance, names of modules, which its weights have,
# and what sets initial values or trains only
OTHER_FIELDS = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_type"),
        *("peft_version", "runtime_config", "target_modules", "target_parameters", "exclude_modules"),
        *("modules_to_save", "layers_pattern", "layers_to_transform", "feedforward_modules", "fan_in_fan_out"),
        *("trainable_token_indices", "ensure_weight_tying", "init", "init_text", "init_std", "init_weights"),
        *("init_ia3_weights", "encoder_hidden_size"),
    )
)


@dataclass(frozen=True)
class StartFolder:
    """The folder of the weights of a start: of an adapter, or of a model; `run` is that of the run they are from."""

    weights: Path
    run: Path | None
    name: str  # of the run's folder, or of the adapter


def is_hub_id(start: str) -> bool:
    """Return whether a start is the name of an adapter on the Hub, rather than a path."""
    return HUB_ID.fullmatch(start) is not None and not start.startswith(".") and not exists(start)


def is_foreign_adapter(place: str, out: str) -> bool:
    """Return whether one of runs= is an adapter of another program: of the Hub, or in a folder that is no run.

    A name in an existing folder, or in `out`, is a path, also where it is missing.
    """
    folder = Path(place)
    if is_hub_id(place):
        return folder.parent != Path(out) and not is_folder(folder.parent)
    return is_file(folder / ADAPTER_FILE) and not is_file(folder / "result.json")


def start_folder(start: str | Path) -> StartFolder | None:
    """Return the folders of a start: a run, its adapter/ or model/, or another adapter; None if it has no weights."""
    folder = Path(start)
    run = next((each for each in (folder, folder.absolute().parent) if is_file(each / "result.json")), None)
    if run is not None and (run is folder or folder.name in ("adapter", "model")):
        weights = next((run / name for name in ("model", "adapter") if is_folder(run / name)), None)
        return None if weights is None else StartFolder(weights, run, run.absolute().name)
    return StartFolder(folder, None, folder.absolute().name) if is_file(folder / ADAPTER_FILE) else None


def found_start(start: str, source: str, download: Callable[[str, bool], Path]) -> StartFolder:
    """Return the folders of a start.

    Args:
        source: of the run: hub, offline, or auto.
        download: returns the folder of an adapter of the Hub, by its name, and whether only its cache is read.

    Raises:
        UserError: it has no weights, or the Hub has no such adapter.
    """
    if is_hub_id(start):
        return StartFolder(hub_adapter("start", start, source, download), None, start)
    if (found := start_folder(start)) is None:
        raise UserError(refusal(f"start={start} is no run with weights and no adapter", "start=outputs/.../seed-0-..."))
    return found


def hub_adapter(key: str, name: str, source: str, download: Callable[[str, bool], Path]) -> Path:
    """Return the folder of an adapter of the Hub; `key` names it, the rest is as of `found_start`.

    Raises:
        UserError: the Hub has no such adapter, or does not answer and its cache has none.
    """
    try:
        return download(name, source == "offline" or not hub_is_reachable())
    except (OSError, ValueError) as error:
        wrong = f"{key}={name} is no folder, and neither on the Hub nor in its cache: {error_summary(error)}"
        raise UserError(f"{wrong}; name a run folder or the folder of an adapter") from error


def weights_hash(start: StartFolder) -> str:
    """Return the hash of the files of a start's weights."""
    return fingerprint(start.weights, (".safetensors",))


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the content of an adapter's config, which may be by anyone.

    Raises:
        UserError: it cannot be read, or sets what could run code.
    """
    file = folder / ADAPTER_FILE
    settings = read_json(file, "use another adapter")
    if not isinstance(settings, dict):
        raise UserError(f"{file} cannot be read: expected an object; use another adapter")
    if errors := list(adapter_errors(settings)):
        raise UserError(f"{file}: {'; '.join(errors)}")
    return settings


def base_of(adapter_file: Path) -> tuple[str, str]:
    """Return the checkpoint and the revision of the base that an adapter_config.json names.

    Raises:
        UserError: it names none, or the file cannot be read.
    """
    try:
        settings = read_json(adapter_file, "use another folder")
        name, revision = settings["base_model_name_or_path"], settings.get("revision") or "main"
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{adapter_file} cannot be read as the config of an adapter; use another folder") from error
    if not name:
        raise UserError(f"{adapter_file} names no base; set base_model_name_or_path in it")
    return str(name), str(revision)


def start_settings(start: StartFolder, extra: Path | None = None) -> dict[str, Any]:
    """Return the settings of model and method, by key, with which the weights of a start fit.

    Args:
        extra: the folder of -cd, whose methods count too.

    Raises:
        UserError: the run is unfinished or damaged, or the adapter's config is.
    """
    config = None if start.run is None else recorded_config(start.run)
    if config is None or start.run is None:
        return _adapter_settings(start.weights, extra)
    source = read_json(start.run / "result.json", AGAIN)["audit"]["sources"]["model"]
    model, method = config.model, config.method
    found: dict[str, Any] = {"model": model.name, "model.checkpoint": model.checkpoint}
    found |= {f"model.{name}": getattr(model, name) for name in ("pooling", "keep_layers")}
    if source.get("kind") in ("hub", "cache"):
        found["model.revision"] = source.get("revision")
    found |= {"method": method.name, "method.quantization": method.quantization}
    found |= {f"method.config.{name}": value for name, value in continued_config(config).items()}
    return found if config.vocab is None else {**found, "vocab": vocabulary_of(start, config)}


def continued_config(config: RunConfig) -> dict[str, Any]:
    """Return the settings of a run's method with which its saved weights train.

    Prompt encoders are not saved. The adapter of one of several tasks has its own ranks and those that all share.
    """
    settings = dict(config.method.config)
    if config.tasks is not None and config.multitask.adapter == "shared_and_per_task":
        settings |= {name: 2 * settings[name] for name in ("r", "lora_alpha")}
    return settings | ({"encoder": None} if settings.get("encoder") else {})


def vocabulary_of(start: StartFolder, config: RunConfig) -> str | None:
    """Return the folder of a run's new tokens: its adapter, or of a whole model the folder that it was trained with."""
    own = start.weights / "vocabulary.json"
    return str(start.weights) if is_file(own) else config.vocab


def _adapter_settings(folder: Path, extra: Path | None) -> dict[str, Any]:
    """Return the settings of an adapter: its base, and the method that differs from it in the fewest settings."""
    settings = adapter_settings(folder)
    found = _base_settings(settings, *base_of(folder / ADAPTER_FILE), extra)
    if (target := _target_of(str(settings.get("peft_type")))) is None:
        return found
    known = {name: read_yaml(file) for name, file in group_files("method", extra).items()}
    changes = {
        name: _differences(settings, method.config, target)
        for name, method in known.items()
        if method.config.get("_target_") == target and not method.get("quantization")
    }
    method = min(changes, key=lambda name: len(changes[name]), default="peft")
    config = changes.get(method, {"_target_": target, **_differences(settings, {}, target)})
    config |= {name: settings[name] for name in CHOSEN_MODULES & settings.keys() if settings[name] is not None}
    if other := sorted({*(settings.get("modules_to_save") or ())} - {"classifier", "score"}):  # PEFT adds these two
        config["modules_to_save"] = other
    return {**found, "method": method} | {f"method.config.{name}": value for name, value in config.items()}


def _base_settings(settings: Mapping[str, Any], base: str, revision: str, extra: Path | None) -> dict[str, Any]:
    """Return the model of an adapter's base: by the name of its checkpoint, or by the config in its folder."""
    found = {"model.checkpoint": base, "model.revision": revision}
    models = {name: read_yaml(file) for name, file in group_files("model", extra).items() if not name.startswith("_")}
    name = next((name for name, model in models.items() if Path(str(model.checkpoint)).name == Path(base).name), None)
    if name is None and is_file(Path(base) / "config.json"):
        family = family_of(str(read_json(Path(base) / "config.json", "use another folder").get("model_type")))
        name = None if family is None else family.suggested or family.name
    if name is None:
        return found
    if settings.get("task_type") == "SEQ_CLS" and models[name].family == ENCODER:
        found["model.pooling"] = "cls"  # of transformers' classifiers
    return {"model": name, **found}


def _target_of(peft_type: str) -> str | None:
    """Return the class of a type's config, in peft or of a tuner of peftkit; None where there is none."""
    names = {name.removesuffix("Config").upper(): name for name in names_in("peft", "Config")}
    if (name := PEFT_CLASSES.get(peft_type) or names.get(peft_type.replace("_", ""))) is not None:
        return f"peft.{name}"
    targets = {str(read_yaml(file).config.get("_target_")) for file in group_files("method").values()}
    own = {
        each.rpartition(".")[2].removesuffix("Config").upper(): each for each in targets if each.startswith("peftkit.")
    }
    return own.get(peft_type.replace("_", ""))


def _differences(settings: Mapping[str, Any], config: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return the fields of an adapter that differ from those of a method, which has defaults of its class."""
    defaults = {name: field.default for name, field in (fields_of(target) or {}).items()}
    expected = {**defaults, **config}
    return {
        name: value
        for name, value in settings.items()
        if name in defaults.keys() - OTHER_FIELDS
        and (value != expected[name] if expected[name] is not ... else bool(value))
    }
