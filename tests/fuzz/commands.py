"""Random commands over every key and kind of value, typed or in a recipe, a config part or a folder of -cd."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache
from typing import Any

from hypothesis import strategies as st

from fuzz.oracle import Example
from peftkit import paths
from peftkit.config import JOBS, SECTIONS, RunConfig
from peftkit.config.run import PROVENANCE
from peftkit.config.signatures import fields_of
from peftkit.config.suggestions import TRAINING

# job=pretrain and job=matrix train for minutes by themselves; watch=true serves until it is interrupted; delete=true is
# in fuzz.everyday, where out= stays inside of the workspace
SKIPPED_JOBS, SKIPPED_KEYS = {"pretrain", "matrix"}, {"watch", "delete"}
FAMILIES = ("bert", "gpt2", "t5")
MODELS = {
    "distilbert": "distilbert",
    "roberta": "roberta",
    **dict.fromkeys(("bert", "minilm"), "bert"),
    "gpt2": "gpt2",
    "t5": "t5",
}
RUN = "outputs/own/classification/bert/lora/seed-0-run"
RUNS = {  # folders of finished runs by what they are, of which most commands read the first
    "classifier": RUN,
    "full": "outputs/own/classification/bert/full/seed-0-run",
    "answers": "outputs/own/seq2seq/t5/lora/seed-0-run",
    "prompted": "outputs/own/classification/gpt2/few_shot/seed-0-run",
    "vocabulary": "outputs/vocabulary",
}
FILES = (
    "data/plain.jsonl",
    "data/plain.csv",
    "data",
    "data/tags.conll",
    "data/empty.csv",
    RUN,
    "missing.csv",
    "/dev/null",
    "/",
    "..",
)
CODE = "{_target_: os.system, command: touch ran}"
EVAL = '{_target_: builtins.eval, _args_: [\'__import__("os").system("touch ran")\']}'
TEXTS = (
    "", " ", "x", "a b", "naïve", "日本", "e\u0301", "a\nb", "a\tb", "\x1b[31m", "\udcff", "x" * 300, "x" * 5000, ".",
    "..", "../x", "../../../x", "/x", "/proc/self/mem", "~/x", "~", "a/b", "a\\b", "-1", "1e999", "nan", "-inf",
    "0x10", "1_000", "007", "true", "off", "null", "???", "${x}", "${seed}", "${out}", "${", "${oc.env:HOME}",
    "${oc.env:PLANTED_API_KEY}", "${oc.env:MISSING,x}", "${oc.env:DB_PASSWORD}", "PLANTED_API_KEY", "'", '"', "[", "]",
    "{", "}", "[]", "{}", "[1,2]", "[null]", "[[]]", "[a,[b]]", "{a: 1}", "{a: {b: [c]}}", CODE, f"[{CODE}]", EVAL,
    "{_target_: peft.LoraConfig}", "os.system", "peft.LoraConfig", "choice(1,2)", "range(3)", "interval(0,1)",
    "glob(*)", "1,2", "a,b", "sort(2,1)", "tag(x,1)", "int(3)", "str(3)", "[" * 200, "{a:" * 200, "%s", "file:x",
    "http://127.0.0.1:9/v1", "http://[::1", "javascript:x", "😀", "a=b", "=", "#", "!!python/object/apply:os.system [touch ran]",
)  # fmt: skip
NESTED: tuple[Any, ...] = (
    None, True, 0, -1, 0.5, 1e30, float("nan"), [], {}, [1], ["x"], {"a": 1}, {"a": {"b": [None]}}, [[[[]]]],
    {"_target_": "os.system", "command": "touch ran"}, [{"_target_": "os.system", "command": "touch ran"}],
)  # fmt: skip
HYDRA = (
    ("hydra.callbacks.x._target_", "os.system"), ("hydra.callbacks", {"x": {"_target_": "os.system", "command": "touch ran"}}),
    ("hydra.job.env_set", {"X": "1"}), ("hydra.searchpath", ["file:///tmp"]), ("hydra.run.dir", "../elsewhere"),
    ("hydra.sweep.dir", "../elsewhere"), ("hydra.output_subdir", "x"), ("hydra.job.chdir", True), ("hydra.mode", "MULTIRUN"),
    ("hydra.sweeper._target_", "os.system"), ("hydra.sweeper.params", {"seed": "0,1"}), ("hydra.launcher._target_", "subprocess.run"),
    ("hydra.sweeper.params", {"+hydra.callbacks.x._target_": "os.system"}), ("hydra.launcher.setup", ["touch ran"]),
    ("hydra.job_logging", {"version": 1, "handlers": {"x": {"()": "os.system", "command": "touch ran"}}, "root": {"handlers": ["x"]}}),
    ("hydra.job_logging", {"version": 1, "handlers": {"x": {"class": "logging.FileHandler", "filename": "../ran"}}, "root": {"handlers": ["x"]}}),
    ("hydra.help.template", "${oc.env:PLANTED_API_KEY}"), ("hydra.job.name", "../x"), ("hydra.runtime.output_dir", "../x"),
    ("defaults", [{"override hydra/launcher": "submitit_local"}]), ("defaults", [{"override hydra/job_logging": "default"}]),
    ("defaults", [{"override /task": "../x"}]), ("defaults", ["missing"]), ("defaults", "x"), ("defaults", [[]]), ("defaults", [None]),
    ("train.output_dir", "../elsewhere"), ("train.push_to_hub", True), ("generate.key_env", "DB_PASSWORD"),
    ("train.logging_dir", "../elsewhere"), ("model.trust_remote_code", True), ("method.config._target_", "os.system"),
    ("allow_code", ["os"]), ("generate.request", {"user": "${oc.env:PLANTED_API_KEY}"}), ("generate.base_url", "http://127.0.0.1:9/v1"),
)  # fmt: skip


@cache
def keys() -> tuple[str, ...]:
    """Return every key: the top level, the sections, the arguments of the trainer, of a method and of Hydra."""
    found = [each.name for each in fields(RunConfig) if each.name not in PROVENANCE]
    found += [f"{section}.{each.name}" for section, kind in SECTIONS.items() for each in fields(kind)]
    found += [f"train.{name}" for name in fields_of(TRAINING) or ()]
    found += [f"method.config.{name}" for name in fields_of("peft.LoraConfig") or ()]
    return tuple(
        sorted({*found, "recipe", "train", "claim", "task.splits.train", "generate.request.user"} - SKIPPED_KEYS)
    )


def numbers() -> st.SearchStrategy[str]:
    small = st.integers(-3, 70).map(str)
    return st.one_of(small, st.integers().map(str), st.floats().map(str), st.floats(0, 1).map(str))


def typed_values() -> st.SearchStrategy[str]:
    """Return values as users type them, well-formed or not."""
    choices = [*FILES, *(f"{name}" for group in ("model", "method", "task") for name in paths.group_files(group, None))]
    free = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    return st.one_of(st.sampled_from(TEXTS), numbers(), st.sampled_from(choices), free)


@st.composite
def typed(draw: st.DrawFn) -> str:
    """Return key=value, sometimes of an unknown key or in another form."""
    key = draw(
        st.one_of(st.sampled_from(keys()), st.sampled_from(keys()), st.sampled_from([name for name, _ in HYDRA]))
    )
    form = draw(st.integers(0, 19))
    if form == 0:
        key = draw(
            st.sampled_from(
                [
                    key[:-1],
                    f"{key}.x",
                    f"+{key}",
                    f"~{key}",
                    f"++{key}",
                    key.upper(),
                    key.replace(".", "/"),
                    f"@{key}",
                    "",
                ]
            )
        )
    value = draw(typed_values())
    if key in ("job", "model", "recipe", "source", "watch") and form > 4:
        return "seed=1"  # the command chooses these itself, below
    return value if form == 1 else f"{key}={value}"


@st.composite
def base(draw: st.DrawFn) -> list[str]:
    """Return the words of a cheap command that works."""
    job = draw(st.sampled_from(["plan"] * 8 + ["finetune"] + sorted(set(JOBS) - SKIPPED_JOBS)))
    words = [f"job={job}", "out=outputs"] if job != "finetune" else ["out=outputs"]
    if job in ("plan", "finetune", "downstream"):
        family = draw(st.sampled_from(["bert"] * 4 + ["gpt2", "t5", "roberta"]))
        words += [f"model={family}", f"model.checkpoint=models/{family}", "source=offline", "train.max_steps=1"]
        words += ["task.max_train_samples=8", "task.max_eval_samples=4", "train.disable_tqdm=true"]
        words += (
            [f"method={draw(st.sampled_from(sorted(paths.group_files('method', None))))}"]
            if draw(st.booleans())
            else []
        )
        words += draw(
            st.sampled_from(
                [["task=sst2"], ["task=classification", "task.dataset=data/plain.jsonl", "task.text=[text]"]]
            )
        )
    if JOBS[job].run == "required" or (JOBS[job].run == "optional" and draw(st.booleans())):
        words.append(f"run={RUN}")
    if JOBS[job].input != "no":
        words.append(draw(st.sampled_from(["input=data/plain.jsonl", "input=a fine film"])))
    if job == "generate":
        words += [
            "generate.generator=endpoint",
            "generate.base_url=http://127.0.0.1:9/v1",
            "generate.endpoint_model=x",
            "generate.retries=0",
        ]
    if job == "extend":
        words += ["model=bert", "model.checkpoint=models/bert", "extend.corpus=data/plain.jsonl", "extend.budget=2"]
    return words


@st.composite
def commands(draw: st.DrawFn) -> Example:
    """Return a command with random keys, some of them in a recipe or a part of a folder of -cd."""
    words = [*draw(base()), *draw(st.lists(typed(), min_size=0, max_size=3))]
    kind = draw(st.integers(0, 9))
    if kind > 3:
        return Example(tuple(words))
    settings: dict[str, Any] = {}
    pairs = st.tuples(st.sampled_from(keys()), st.one_of(st.sampled_from(NESTED), st.sampled_from(TEXTS)))
    for key, value in draw(st.lists(st.one_of(st.sampled_from(HYDRA), pairs), min_size=1, max_size=3)):
        node = settings
        *parents, name = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        else:
            node[name] = value
    group = draw(st.sampled_from(["recipes", "recipes", "recipe", "task", "method", "model", "hydra/launcher"]))
    text = json.dumps(settings, ensure_ascii=draw(st.booleans()))  # which is YAML
    text = draw(
        st.sampled_from(
            [
                text,
                text,
                text,
                f"# @package _global_\n{text}",
                text[:-1],
                f"a: &a {text}\nb: [*a, *a]",
                BOMB,
                "!!python/object/apply:os.system ['touch ran']",
            ]
        )
    )
    content = text.encode("utf-8", "surrogatepass")
    chosen = {"recipes": "recipe"}.get(group, group)
    return Example(("-cd", "strange", *words, f"{chosen}=strange"), {f"strange/{group}/strange.yaml": content})


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
)
