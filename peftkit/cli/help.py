"""The help pages: one screen by default, and one for each job, method, model, task and recipe."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from peftkit import paths
from peftkit.cli.files import GROUPS, file_error, options_of
from peftkit.config import JOBS, UserError, error_summary, nearest
from peftkit.config.checks.job import PATH_KEYS, ignored
from peftkit.config.checks.values import as_typed
from peftkit.config.signatures import fields_of
from peftkit.config.suggestions import with_hint
from peftkit.config.traits import traits_of
from peftkit.config.yaml_files import read_yaml
from peftkit.paths import is_file, read_regular

WIDTH = 118
COMMANDS = {
    "peftkit recipe=lora_glue": "LoRA on every GLUE task, then print the table",
    "peftkit -m task=mrpc method=lora,ia3 seed=0,1": "compare all combinations of the values",
    "peftkit recipe=lora_glue task=mrpc job=plan": "trained parameters, steps and memory, without training",
    "peftkit job=inspect task.dataset=FILE": "what is wrong with your data, before anything trains",
    "peftkit job=predict run=DIR input=FILE": "use a trained run",
    "peftkit job=leaderboard": "all results so far",
}
MORE = {
    "peftkit job=predict --help": "a job and its keys; also method=lora, model=bert, task=sst2, recipe=dpo",
    "peftkit method --help": "all methods, one per line; also job, model, task, recipe, and keys",
    "-cd DIR": "adds your own models, methods, tasks and recipes; --cfg job prints the config; --version",
}


def help_text(arguments: Iterable[str], extra: Path | None = None) -> str:
    """Return the pages of the choices and groups among the arguments, else the overview.

    Raises:
        UserError: an option does not exist.
    """
    pages = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "keys":
            pages.append("KEYS   key=value\n" + _table(_keys([*_documented_keys()])))
        elif name in ("job", *GROUPS):
            pages.append(_option_page(name, value, extra) if value else _group_page(name, extra))
    text = "\n\n".join(pages) or _overview(extra)
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def header(file: Path) -> str:
    """Return the first comment of a YAML file, apart from Hydra's directives."""
    try:
        lines = read_regular(file).decode(errors="replace").splitlines()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    comments = (line for line in lines if line.startswith("#") and not line.startswith("# @package"))
    return next(comments, "").removeprefix("#").strip()


def _overview(extra: Path | None) -> str:
    recipes = {name: header(file) for name, file in paths.recipes().items()}
    claims = [name for name in recipes if name.startswith("claims/")]
    short = {name: text.split(": recipe=")[0] for name, text in recipes.items() if name not in claims}
    short["claims/..."] = f"tests of published claims: {', '.join(name.removeprefix('claims/') for name in claims)}"
    pages = [
        "peftkit: fine-tune BERT, GPT-2 and T5 with the methods of PEFT, and find out which method to use.",
        "COMMANDS\n" + _table(COMMANDS),
        "RECIPES   peftkit recipe=NAME [key=value ...]\n" + _table(short),
        "MORE\n" + _table(MORE),
    ]
    for group in GROUPS if extra is not None else ():
        own = {name: file for name, file in options_of(group, extra).items() if file.is_relative_to(extra or "")}
        if own:
            table = _table({name: header(file) for name, file in own.items()})
            pages.append(f"{group.upper()}S OF {extra}   {group}=NAME\n{table}")
    return "\n\n".join(pages)


def _group_page(group: str, extra: Path | None) -> str:
    if group == "job":
        summaries = {name: job.summary for name, job in JOBS.items()}
    else:
        summaries = {name: header(file) for name, file in options_of(group, extra).items()}
    return f"{group.upper()}S   {group}=NAME\n{_table(summaries)}"


def _option_page(group: str, name: str, extra: Path | None) -> str:
    options = JOBS if group == "job" else options_of(group, extra)
    if name not in options:
        raise UserError(with_hint(f"unknown {group}={name}", nearest(name, options, f"{group}=")))
    if group == "job":
        return _job_page(name)
    file = options_of(group, extra)[name]
    if (error := file_error(group, name, extra)) is not None:
        raise UserError(error)
    title = f"{group}={name}: {header(file)}"
    if group == "method":
        try:
            return f"{title}\n{_method_table(file)}"
        except (KeyError, TypeError, AttributeError, ValueError) as invalid:
            raise UserError(f"{file} is not the file of a method: {error_summary(invalid)}") from invalid
    bodies = [_body(file)]
    for base in read_yaml(file).get("defaults") or []:
        if isinstance(base, str) and is_file(path := file.with_name(f"{base}.yaml")):
            bodies.append(f"from {group}={base}:\n{_body(path)}")
    return f"{title}\n\n" + "\n\n".join(bodies)


def _job_page(name: str) -> str:
    job, documented = JOBS[name], _documented_keys()
    requirements = {"run": job.run, "runs": job.runs, "input": job.input, "output": job.writes or "no"}
    unused = {*ignored(job, [key for key in documented if key not in PATH_KEYS]), "job"}
    keys = [key for key in documented if key not in unused and requirements.get(key) != "no"]
    reads = GROUPS[:3] if job.reads is None else (*job.reads, *job.reads_without_run)
    keys += [key for key in reads if key in GROUPS[:3] or ("." in key and key not in documented)]
    return f"job={name}: {job.summary}\n\nKEYS   key=value\n{_table(_keys(keys))}"


def _method_table(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    values, comments = yaml.safe_load(text), _comments(text)
    config = dict(values["config"])
    target = config.pop("_target_")
    given = {f"{name}={as_typed(value)}": comments.get(f"config.{name}", "") for name, value in config.items()}
    traits = [name for name, holds in vars(traits_of(values["config"], values["traits"])).items() if holds]
    rest = [name for name in fields_of(target) or {} if name not in config]
    properties = {
        "config": target,
        "paper": values["paper"] or "none",
        "traits": ", ".join(traits) or "none",
        "learning_rate": f"{values['learning_rate']}",
    } | {f"not on {name}": reason for name, reason in values["refuses"].items()}
    pages = [_table(properties), "OPTIONS   method.config.NAME=VALUE\n" + _table(given)]
    pages += [f"more options of {target}:\n{_wrapped(', '.join(rest))}"] if rest else []
    return "\n\n".join(pages)


def _documented_keys() -> dict[str, tuple[str, str]]:
    """Return the keys of config.yaml below their sections: default and comment."""
    text = (paths.conf_folder() / "config.yaml").read_text(encoding="utf-8")
    values, comments = yaml.safe_load(text), _comments(text)
    keys: dict[str, tuple[str, str]] = {}
    for name, value in values.items():
        if name in ("defaults", "hydra"):
            continue
        section = (
            {f"{name}.{key}": default for key, default in value.items()} if isinstance(value, dict) else {name: value}
        )
        keys |= {key: (_literal(default), comments.get(key, "")) for key, default in section.items()}
    return keys


def _comments(text: str) -> dict[str, str]:
    """Return the comment of each key of a YAML file with at most one level of sections."""
    comments: dict[str, str] = {}
    section = key = ""
    for line in text.splitlines():
        if match := re.match(r"(  )?([\w-]+):", line):
            section = section if match[1] else match[2]
            key = f"{section}.{match[2]}" if match[1] else match[2]
        comment = re.search(r"(?:^|\s)#\s*(.*)", line)
        if key and comment:
            comments[key] = f"{comments.get(key, '')} {comment[1]}".strip()
    return comments


def _keys(names: list[str]) -> dict[str, str]:
    lists = {group: ("NAME", f"peftkit {group} --help lists them; {group}.KEY=... changes one key") for group in GROUPS}
    described = dict.fromkeys(names, ("...", "")) | _documented_keys() | lists
    return {f"{name}={described[name][0]}": described[name][1] for name in names}


def _literal(value: Any) -> str:
    text = str(as_typed(value)) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) < 26 and "${" not in text else "..."


def _body(file: Path) -> str:
    """Return the lines of a file without its header, Hydra's directives and its base, which the page shows too."""
    lines = file.read_text(encoding="utf-8").removeprefix(f"# {header(file)}\n").splitlines()
    return "\n".join(f"  {line}".rstrip() for line in lines if not re.match(r"# @package|defaults: \[\w+\]", line))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _table(entries: Mapping[str, str]) -> str:
    """Return lines of name and text; longer texts continue below themselves."""
    width = max((len(name) for name in entries if len(name) < 50), default=0)
    lines = []
    for name, text in entries.items():
        pieces = textwrap.wrap(text, max(WIDTH - width - 4, 40), break_on_hyphens=False)
        lines.append(f"  {name:<{width}}  {pieces[0] if pieces else ''}".rstrip())
        lines += [f"  {'':<{width}}  {piece}" for piece in pieces[1:]]
    return "\n".join(lines)
