"""Turn a command into every complaint about its runs; nothing is loaded but YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import paths
from peftkit.cli.compose import Composer, open_composer, plan_sweep, read_recipe, without_hydra, yaml_fault
from peftkit.cli.overrides import OPEN, normalize, parse
from peftkit.config import SECTIONS, UserError, complaints, holds_keys, key_names, nearest, nearest_key, takes_list

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

GROUPS = ("model", "method", "task", "recipe")
HYDRA_PACKAGES = ("hydra.", "hydra_plugins.", "optuna.")
QUIET = {"version", "root", "disable_existing_loggers"}  # a logging config with these alone builds no handler
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL", re.IGNORECASE)


JUDGES = (  # of generate: what asks, and not what grows tasks
    "generator", "model", "base_url", "endpoint_model", "key_env", "max_tokens", "max_cost", "price_in", "price_out",
    "batch", "max_answer_tokens", "chat", "quantization", "request", "retries", "timeout",
)  # fmt: skip

# what a job that trains nothing looks at; whatever else is typed would be ignored in silence
READS = {
    "predict": ("run", "runs", "input", "output", "train.per_device_eval_batch_size"),
    "evaluate": ("run", "task", "source", "data_root", "train.per_device_eval_batch_size"),
    "merge": ("run", "output"),
    "forgetting": ("run", "input", "source", "data_root"),
    "embed": ("run", "input", "output", "embed", "source", "train.per_device_eval_batch_size", "train.bf16"),
    "leaderboard": ("out", "output", "results", "watch", "claim"),
    "submission": ("out", "output", "runs", "source", "data_root", "model", "method", "train", "seed"),
    "matrix": ("output",),
    "generate": ("generate", "recipe", "model", "source", "out", "seed", "force", "data_root"),
    "judge": (
        "run",
        "runs",
        "model",
        "source",
        "data_root",
        "out",
        "seed",
        "force",
        "task.max_eval_samples",
        *(f"generate.{name}" for name in JUDGES),
    ),
}

NO_RUN = {"embed": ("model", "vocab")}  # what else it looks at where no run= is named

ALONE = {
    "leaderboard": "shows every run below out=",
    "submission": "chooses among the runs below out=",
    "generate": "trains nothing",
    "judge": "compares answers that are there, greedily, by a prompt of its own",
    "matrix": "tries every method on tiny models of its own",
}


def check(overrides: Sequence[str], more: Path | None = None, multirun: bool = True) -> list[str]:
    """Return every complaint about the command's runs; empty where they may begin."""
    with open_composer(more) as composer:
        return complaints_about(overrides, composer, more, multirun)


def complaints_about(overrides: Sequence[str], composer: Composer, more: Path | None, multirun: bool) -> list[str]:
    """Do the same in an opened drawer, which keeps the configs that it composed."""
    found: dict[str, None] = {}  # an ordered set
    right = []
    for word in map(normalize, overrides):
        wrong = list(_word(word, more))
        found.update(dict.fromkeys(wrong))
        if not wrong:
            right.append(word)
    found.update(dict.fromkeys(_unread(right)))
    for sentence in _runs(right, composer, multirun, bool(found)):
        found[sentence] = None
    return list(found)


def _unread(words: Sequence[str]) -> Iterator[str]:
    """Complain about keys that the job does not look at."""
    keys = {parse(word).key_or_group: word.lstrip("+") for word in words}
    job = keys.get("job", "job=finetune").partition("=")[2]
    for key, word in keys.items():
        more = NO_RUN.get(job, ()) if "run" not in keys else ()
        known = (
            *READS.get(job, ()),
            *more,
            "job",
            "hydra",
            *(() if job in ALONE else ("output", "input", "run", "runs")),
        )
        if job in READS and not any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in known):
            yield f"job={job} does not look at {word}: it {ALONE.get(job, 'takes the rest from run=DIR')}; drop it"


def _word(word: str, more: Path | None) -> Iterator[str]:
    """Complain about a word that cannot be read, a key, or a group's option, that is not there."""
    from hydra.errors import HydraException

    try:
        override = parse(word)
    except HydraException:
        tilde = "$HOME for ~" if "=~" in word else "\"key='a value'\" where the value has spaces or signs in it"
        yield f"cannot read {word.lstrip('+')!r}; write key=value, and {tilde}"
        return
    key = override.key_or_group
    if key in GROUPS:
        for value in _options_named(override):
            yield from _option(key, value, more)
    elif key in (*SECTIONS, "train") or takes_list(key):
        yield from _shape(override)
    elif not key.startswith(("hydra.", "hydra/", *OPEN)) and key not in ("recipe", *key_names("")):
        section, _, name = key.partition(".")
        if section in SECTIONS:
            if name.split(".")[0] not in key_names(section):
                yield f"unknown key {key}{nearest_key(key)}"
        elif section in key_names(""):
            yield f"unknown key {key}: {section} holds one value; say {section}=..."
        else:
            yield f"unknown key {key}{nearest_key(key)}"


def _shape(override: Override) -> Iterator[str]:
    """Complain about a list where keys belong, and about single values of a sweep where each run takes a list."""
    key, value = override.key_or_group, str(override.input_line).partition("=")[2]
    if override.is_choice_sweep():
        values = list(override.sweep_string_iterator())
        if key in SECTIONS:
            yield holds_keys(key, value)
        elif not any(each.startswith("[") for each in values):
            yield f"{key}={value} names single values, and {key} takes a list; say {key}=[{value}]"
    elif isinstance(override.value(), list) and not takes_list(key):
        yield holds_keys(key, value)


def _option(group: str, name: str, more: Path | None) -> Iterator[str]:
    options = options_of(group, more)
    if name not in options and name != "null":
        yield f"there is no {group}={name}{nearest(name, options, f'{group}=')}"
    elif group == "recipe" and isinstance(fault := read_recipe(options[name]), str):
        yield f"recipe={name} cannot be read: {fault}"


def options_of(group: str, more: Path | None = None) -> dict[str, Path]:
    """Return the files of a config group by option, those of -cd DIR included."""
    if group == "recipe":
        return paths.recipes(more)
    folders = [paths.conf_folder()] + ([more] if more is not None else [])
    return {file.stem: file for folder in folders for file in sorted((folder / group).glob("[!_]*.yaml"))}


def _options_named(override: Override) -> list[str]:
    if override.is_choice_sweep():
        return [str(value).strip("'\"") for value in override.sweep_string_iterator()]
    if override.is_sweep_override() or override.is_delete():
        return []
    return [str(override.get_value_string()).strip("'\"")]


def _runs(words: Sequence[str], composer: Composer, multirun: bool, has_complaints: bool) -> Iterator[str]:
    """Compose each run and complain about it."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield from _hydra_settings(words, composer)
        yield from _sweepable(words, composer, multirun)
        for run in _covering(plan_sweep(words, composer, multirun).runs, has_complaints):
            yield from _run(composer, run)
    except UserError as error:
        yield str(error)
    except YAMLError as error:
        yield yaml_fault(error)
    except (HydraException, OmegaConfBaseException) as error:
        sentence = _sentence(error, words)
        if not has_complaints or "there is no" in sentence:  # else it may follow from what is mended anyway
            yield sentence


def _run(composer: Composer, run: Sequence[str]) -> Iterator[str]:
    from omegaconf import OmegaConf

    cfg = without_hydra(composer(run))
    secrets = list(_secrets(OmegaConf.to_container(cfg)))
    yield from secrets
    if "recipe" in cfg:  # Hydra put it under its group's name
        yield "a recipe in DIR/recipe of -cd DIR starts with '# @package _global_'; or move it to DIR/recipes"
    elif not secrets:
        yield from complaints(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def _covering(runs: list[list[str]], is_wrong: bool) -> list[list[str]]:
    """Return the runs worth a look: where the command is wrong anyway, each word once; else all, but for the seeds."""
    seen: set[str] = set()
    chosen: list[list[str]] = []
    for run in runs:
        news = set(run) if is_wrong else {*run, " ".join(word for word in run if not word.startswith("seed="))}
        if not news <= seen or not chosen:
            chosen.append(run)
        seen |= news
    return chosen


def _sweepable(words: Sequence[str], composer: Composer, multirun: bool) -> Iterator[str]:
    overrides = [parse(word) for word in words]
    sweeps = [override for override in overrides if override.is_sweep_override()]
    if not sweeps or multirun:
        return
    singles = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    if str(composer(singles).hydra.mode) != "RunMode.MULTIRUN":
        for override in sweeps:
            line = str(override.input_line).lstrip("+")
            key, _, value = line.partition("=")
            yield f"{line} names several values; add -m to run them all, or say \"{key}='{value}'\" if it is one"


def _hydra_settings(words: Sequence[str], composer: Composer) -> Iterator[str]:
    """Refuse what a recipe or part could make Hydra run; what the user types for Hydra is the user's own."""
    from omegaconf import OmegaConf

    overrides = [parse(word) for word in words]
    kept = [o for o in overrides if not o.is_sweep_override() and not o.key_or_group.startswith("hydra.")]
    section = composer([str(override.input_line) for override in kept]).hydra
    settings: dict[str, Any] = OmegaConf.to_container(section, resolve=False)  # type: ignore[assignment]
    risky = {
        "callbacks": settings["callbacks"],
        "job.env_set": settings["job"]["env_set"],
        "launcher.setup": settings["launcher"].get("setup"),
        **{key: (settings[key] or {}).keys() - QUIET for key in ("job_logging", "hydra_logging")},
        **{path: not target.startswith(HYDRA_PACKAGES) for path, target in _targets(settings | {"callbacks": None})},
    }
    for key in (key for key, value in risky.items() if value):
        yield f"hydra.{key} can run code, so no recipe or part may set it; set it on the command line if you mean it"


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items() if isinstance(node, Mapping) else []:
        if key == "_target_":
            yield f"{path}{key}", str(value)
        yield from _targets(value, f"{path}{key}.")


def _secrets(node: Any) -> Iterator[str]:
    """Refuse values taken from the environment's secrets: a run folder keeps its config, and a Hub id is sent out."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _secrets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _secrets(value)
    elif isinstance(node, str):
        for name in re.findall(r"oc\.env\s*:([^}]*)", node):
            if SECRET.search(name) or "$" in name:
                yield f"${{oc.env:{name}}} is refused: a config keeps no secret; transformers reads HF_TOKEN by itself"


def _sentence(error: Exception, words: Sequence[str]) -> str:
    """Return what Hydra or OmegaConf has to say as one line, with the nearest right name where one is missing."""
    from hydra.core.global_hydra import GlobalHydra

    text = str(error)
    place = match[1] + ": " if (match := re.search(r"In '((?!config'|hydra/config')[^']*)'", text)) else ""
    if match := re.search(r"Could not find '([^']*)/([^'/]*)'", text):
        group, name = match[1], match[2]
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        hint = nearest(name, options, f"{group}=")
        if group.startswith("hydra/"):
            hint += "; more come with pip install 'peftkit[slurm]', 'peftkit[ray]' or 'peftkit[optuna]'"
        asked = "" if any(word.startswith(f"{group}=") for word in words) else ", which the recipe or part asks for"
        return f"{place}there is no {group}={name}{asked}{hint}"
    if "Cannot merge DictConfig with ListConfig" in text:
        return f"{place}a list stands where keys belong; rates to try are search: {{lr_multipliers: [0.3, 1, 3]}}"
    if match := re.search(r"Could not override '([^']*)'", text):
        return f"{place}unknown key {match[1]}{nearest_key(match[1])}"
    key = f"{full_key}: " if (full_key := getattr(error, "full_key", None)) else ""
    cause = str(error.__cause__) if type(error).__name__ == "ConfigCompositionException" and error.__cause__ else text
    lines = [line.strip() for line in cause.splitlines() if line.strip() and not line.endswith(":")]
    return f"{place}{key}{lines[0] if lines else type(error).__name__}"
