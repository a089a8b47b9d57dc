"""What files by others may set: recipes, the models, methods and tasks of -cd DIR, and the configs of run folders.

What is typed on the command line is the user's will and is not checked here.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from peftkit.config.checks.ranges import NAMES, is_name
from peftkit.config.checks.upstream import target_errors
from peftkit.config.checks.values import as_typed, value_of
from peftkit.config.errors import UserError
from peftkit.config.run import SECTIONS
from peftkit.config.suggestions import key_names, nearest
from peftkit.config.yaml_files import package_directive, read_yaml

PARTS = ("model", "method", "task")  # config groups with a file for each option
MODES = ("RUN", "MULTIRUN")
LAUNCHERS = ("basic", "submitit_local", "submitit_slurm", "ray")
SWEEPERS = ("basic", "optuna")
BY_NAME = {"hydra/launcher": LAUNCHERS, "hydra/sweeper": SWEEPERS}
VARIABLES = ("HOME", "SCRATCH", "TMPDIR", "SLURM_TMPDIR")  # of the environment, whose values are folders
NAME = re.compile(r"\w[\w-]*(/\w[\w-]*)*")
SWEPT = re.compile(r"[\w,/()*\s-]+")  # names of a sweep
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
INTERPOLATION = re.compile(r"(?=\$\{\s*(?P<name>[^:}]*)(?P<arguments>:[^}]*)?)")  # nested ones, too
# keys at any depth that run code, write elsewhere, delete, publish, or name a secret
TYPED_ONLY = re.compile(
    r"allow_code|delete|trust_remote_code|key_env|output_dir|logging_dir|push_to_hub|hub_\w+|trackio_\w+|deepspeed|"
    r"resume_from_checkpoint|megatron_config|tokenizer_kwargs|code_revision|auto_map|_(args|partial|recursive|convert)_"
)
FOLDERS = ("out", "run", "runs", "input")  # keys of folders that are written to, or of files beside which is written
NOT_SWEPT = (*FOLDERS, "output", "generate.base_url")
REMOVE = "may be set on the command line only; remove it from the file"
PRIVATE_TRACKERS = ("none", "tensorboard")  # which write to the run folder only


def read_option(group: str, name: str, file: Path, options: Collection[str]) -> DictConfig:
    """Return the content of the file of a recipe, model, method or task.

    Args:
        options: the names of the group, on which the file may build.

    Raises:
        UserError: it cannot be read, or it sets what only the command line may set.
    """
    node = read_yaml(file)
    values: Any = OmegaConf.to_container(node, resolve=False)
    package = package_directive(file)
    found = list(_recipe_errors(values, options) if group == "recipe" else _part_errors(group, values, options))
    if package not in (None, "_group_", "_global_" if group == "recipe" else group):
        found.insert(0, f"'# @package {package}' is refused; remove that line")
    if found:
        raise UserError("; ".join(f"{group}={name}: {message}" for message in dict.fromkeys(found)))
    return node


def stored_errors(config: Any, packages: Sequence[str]) -> Iterator[str]:
    """Yield what the config of a run folder may not set, apart from empty values: it lists every key.

    Args:
        packages: the user's own, opened by allow_code.
    """
    kept = {name: value for name, value in config.items() if name != "generate"} if isinstance(config, Mapping) else {}
    for key in _typed_only(kept):
        yield f"{key} is refused in the config of a run folder"
    for key in NAMES:
        if isinstance(name := value_of(kept, key), str) and not is_name(name):
            yield f"{key}={as_typed(name)} is no name"
    yield from (message for _, message in target_errors(kept, packages))


def adapter_errors(settings: Any) -> Iterator[str]:
    """Yield what the adapter_config.json of a run folder may not set."""
    for key in _typed_only(settings):
        yield f"{key} is refused in adapter_config.json"


def _recipe_errors(values: Mapping[Any, Any], recipes: Collection[str]) -> Iterator[str]:
    yield from _default_errors(values.get("defaults"), "recipe", recipes)
    yield from _hydra_errors(values.get("hydra"))
    yield from _key_errors({name: value for name, value in values.items() if name not in ("defaults", "hydra")})


def _part_errors(group: str, values: Mapping[Any, Any], options: Collection[str]) -> Iterator[str]:
    yield from _default_errors(values.get("defaults"), group, options)
    yield from _key_errors({name: value for name, value in values.items() if name != "defaults"}, f"{group}.")


def _default_errors(defaults: Any, group: str, options: Collection[str]) -> Iterator[str]:
    for default in [] if defaults is None else defaults if isinstance(defaults, list) else [defaults]:
        if isinstance(default, str):
            name = default.removeprefix(f"/{group}/")
            if default != "_self_" and not any(option == name or option.endswith(f"/{name}") for option in options):
                yield f"defaults: {default!r} is no {group}{nearest(default, options)}"
            continue
        for key, value in default.items() if isinstance(default, Mapping) and default else [(default, None)]:
            yield from _choice_errors(str(key), value, group)


def _choice_errors(key: str, value: Any, group: str) -> Iterator[str]:
    """Yield a message unless an entry of `defaults` chooses one option of a group that the file may choose."""
    chosen = key.removeprefix("override").strip().removeprefix("/")
    if group != "recipe" or chosen not in (*PARTS, *BY_NAME) or not re.fullmatch(r"override\s+/.*", key):
        allowed = "override /model, /method, /task, /hydra/launcher, /hydra/sweeper and names of recipes"
        yield f"defaults: {key!r} is refused; use {allowed if group == 'recipe' else f'names of a {group}'}"
    elif isinstance(value, list):  # Hydra would compose only the last
        params = f"{{{chosen}: '{','.join(map(str, value))}'}}"
        yield f"expected one {chosen}; to sweep, use hydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}"
    elif chosen in BY_NAME and value not in BY_NAME[chosen]:
        yield f"defaults: {chosen}: {value} is refused{nearest(str(value), BY_NAME[chosen])}, or type {chosen}={value}"
    elif not NAME.fullmatch(str(value)):
        yield f"defaults: {chosen}: {value!r} is no name"


def _hydra_errors(section: Any) -> Iterator[str]:
    """Yield everything but the mode and the params of a sweeper; Hydra's other settings run code or write files."""
    if section is None:
        return
    sweeper = section.get("sweeper", {}) if isinstance(section, Mapping) else None
    if not isinstance(sweeper, Mapping):
        yield "hydra takes mode and sweeper: {params: ...}"
        return
    params = sweeper.get("params") or {}
    refused = [f"hydra.{name}" for name in section if name not in ("mode", "sweeper")]
    refused += [f"hydra.sweeper.{name}" for name in sweeper]
    for key in (key for key in refused if key != "hydra.sweeper.params"):
        yield (
            f"{key} is refused: Hydra's settings can run code and write files, so a file may set hydra.mode and "
            "hydra.sweeper.params only; remove it from the file, or set it on the command line"
        )
    if section.get("mode", "RUN") not in MODES:
        yield f"hydra.mode={section['mode']} is refused; use {' or '.join(MODES)}"
    if not isinstance(params, Mapping):
        yield "hydra.sweeper.params takes keys with their values, such as {seed: '0,1,2'}"
        return
    for key, value in params.items():
        yield from _param_errors(str(key), value)


def _param_errors(key: str, value: Any) -> Iterator[str]:
    where, section = "hydra.sweeper.params", key.partition(".")[0]
    if not KEY.fullmatch(key) or section not in {*key_names(""), *SECTIONS, "train", *PARTS}:
        yield f"{where}: {key!r} is no key of peftkit; use keys such as seed, method or train.learning_rate"
    elif key in NOT_SWEPT:
        yield f"{where}: {key} is refused: it is not swept; remove it from the file"
    elif isinstance(value, (Mapping, list)):
        yield f"{where}: {key} takes its values as one text, such as '0,1,2'"
    elif re.search(r"[${}\\\n]", str(value)) or (key in PARTS and not SWEPT.fullmatch(str(value))):
        yield f"{where}: {key}={value} is refused; write plain values with commas between, such as '0,1,2'"
    else:
        node: Any = value
        for parent in reversed(key.split(".")):
            node = {parent: node}
        yield from _key_errors(node)


def _key_errors(values: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    yield from (f"{key!r} is no key of peftkit; remove it" for key in values if not isinstance(key, str))
    yield from (f"{key} {REMOVE}" for key in _typed_only(values, prefix, with_empty=True))
    yield from _interpolation_errors(values, prefix)
    if prefix:
        return
    for key, value in values.items():
        if key in ("output", "push", "repo"):
            yield f"{key} {REMOVE}"
        for folder in (value if isinstance(value, list) else [value]) if key in FOLDERS else ():
            if folder is not None and _leaves_folder(str(folder)):
                yield f"{key}={folder} is outside of the working folder, which {REMOVE}"
    train = values.get("train")
    trackers = train.get("report_to") if isinstance(train, Mapping) else None
    for tracker in trackers if isinstance(trackers, list) else [trackers]:
        if tracker is not None and tracker not in PRIVATE_TRACKERS:
            yield f"train.report_to={tracker} publishes the run, which {REMOVE}"


def _leaves_folder(path: str) -> bool:
    return PurePath(path).is_absolute() or ".." in PurePath(path).parts or path.startswith("~") or "${" in path


def _typed_only(node: Any, prefix: str = "", with_empty: bool = False) -> Iterator[str]:
    """Yield each key, at any depth, that only the command line may set; with a null or false value if `with_empty`."""
    for item in node if isinstance(node, list | tuple) else ():
        yield from _typed_only(item, prefix, with_empty)
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if TYPED_ONLY.fullmatch(str(key)) and (value or with_empty):
            yield f"{prefix}{key}"
        yield from _typed_only(value, f"{prefix}{key}.", with_empty)


def _interpolation_errors(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield each interpolation, escaped ones included, that reads anything but keys and a few variables."""
    for item in node if isinstance(node, list | tuple) else ():
        yield from _interpolation_errors(item, prefix)
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield from _interpolation_errors([str(key), value], f"{prefix}{key}.")
    for match in INTERPOLATION.finditer(node) if isinstance(node, str) else ():
        name, arguments = match["name"].strip(), match["arguments"] or ""
        if not _is_allowed(name, arguments):
            yield (
                f"{prefix.rstrip('.')}: ${{{name}{arguments}}} is refused: a file may refer to other keys, and to the "
                f"variables {', '.join(VARIABLES)} by oc.env; write the value itself"
            )


def _is_allowed(name: str, arguments: str) -> bool:
    if not arguments:  # ${task.name}, ${.name}
        return re.fullmatch(r"\.*\w[\w.\[\]-]*", name) is not None and "hydra" not in name
    if name == "oc.env":
        return re.split(r"[,\s]", arguments[1:].strip())[0] in VARIABLES
    return name == "oc.select" and "hydra" not in arguments
