"""Random damage to the files of a run folder, and the jobs that read them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from hypothesis import strategies as st

from fuzz.commands import CODE, NESTED, RUNS, TEXTS
from fuzz.oracle import FIFO, FOLDER, LOOP, Example

READ_BY_BOARDS = ("result.json", "config.yaml")
BOARD_JOBS = (("job=leaderboard",), ("job=submission", "output=outputs/x.zip"))
PLAN = ("job=plan", "model=bert", "source=offline")
SMALL = (*PLAN, "model.checkpoint=models/bert")
OWN = ("task=classification", "task.dataset=data/plain.jsonl", "task.text=[text]")
JUDGE = (
    "job=judge",
    "generate.model=models/gpt2",
    "source=offline",
    "task.max_eval_samples=1",
    "generate.max_answer_tokens=8",
)
BASE_JOBS = (  # with any trained run as the base of another, and as its teacher
    (*PLAN, "model.checkpoint={run}", *OWN),
    (*PLAN, "model.checkpoint={run}/adapter", *OWN),
    (*SMALL, "distill.teacher={run}", *OWN),
    (
        "model=bert",
        "source=offline",
        "out=outputs",
        "train.max_steps=1",
        "model.checkpoint=models/bert",
        "distill.teacher={run}",
        *OWN,
    ),
)
RUN_JOBS = {  # by what the run is: the jobs that read it
    "classifier": (
        ("job=predict", "run={run}", "input=a fine film"),
        ("job=predict", "runs=[{run}]", "input=data/mixed.jsonl", "output=outputs/x.jsonl"),
        ("job=evaluate", "run={run}", "out=outputs"),
        ("job=merge", "run={run}"),
        ("job=report", "run={run}"),
        ("job=embed", "run={run}", "input=a fine film", "output=outputs/v.npy"),
        ("job=forgetting", "run={run}", "input=data/texts.txt"),
        *BASE_JOBS,
    ),
    "full": (("job=predict", "run={run}", "input=a fine film"), ("job=merge", "run={run}"), ("job=evaluate", "run={run}"), *BASE_JOBS),
    "answers": (
        ("job=predict", "run={run}", "input=a fine film"),
        ("job=evaluate", "run={run}"),
        ("job=report", "run={run}"),
        (*JUDGE, "run={run}"),
        (*JUDGE, "runs=[{run},{run}-copy]"),
    ),
    "prompted": (("job=predict", "run={run}", "input=a fine film"), ("job=evaluate", "run={run}"), BASE_JOBS[2]),
    "vocabulary": (
        (*SMALL, "vocab={run}", *OWN),
        ("job=embed", "model=bert", "model.checkpoint=models/bert", "vocab={run}", "source=offline", "input=a fine film", "output=outputs/v.npy"),
        ("job=merge", "run={run}"),
        ("job=embed", "run={run}", "input=a fine film", "output=outputs/v.npy"),
    ),
}  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NESTED, *TEXTS, 10**30, -(10**30), 1e308, float("inf"), "x" * 100_000, "\0", {"x": {"y": {}}}, [float("nan")], "<script>x</script>",
    "custom.py--Model", "peftkit.jobs", "../../../../x", "a\0b",
)  # fmt: skip
KEYS = (
    "auto_map",
    "_target_",
    "trust_remote_code",
    "tokenizer_class",
    "base_model_name_or_path",
    "key_env",
    "output_dir",
    "out",
    "__class__",
)
CUSTOM = b"import pathlib\npathlib.Path('ran').touch()\nclass Model: pass\n"


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every value of nested lists and dicts."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict) or (isinstance(value, list) and len(value) < 50):
            yield from places(value, (*path, key))


@st.composite
def structure(draw: st.DrawFn, content: bytes, is_yaml: bool) -> bytes:
    """Replace, remove or add values in a file of JSON or YAML."""
    tree = copy.deepcopy(yaml.safe_load(content) if is_yaml else json.loads(content))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(sorted(places(tree), key=str)))
        node = tree
        for key in path[:-1]:
            node = node[key]
        action = draw(st.sampled_from(["replace"] * 5 + ["remove", "add", "nest"]))
        if action == "remove":
            del node[path[-1]]
        elif action == "nest":
            node[path[-1]] = [node[path[-1]]]
        elif action == "add" and isinstance(node, dict):
            node[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        else:
            node[path[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return json.dumps(tree, ensure_ascii=True).encode()  # JSON is YAML too


@st.composite
def raw(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut, replace or deform a file."""
    place = draw(st.integers(0, max(0, len(content) - 1)))
    other = draw(st.sampled_from([b"", b"\xff\xfe\x00", b"\0", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"1", b'""', b"a: &a [*a]", f"x: {CODE}".encode(), b"!!python/object/apply:os.system ['touch ran']"]))  # fmt: skip
    whole = [
        content[:place],
        content[:place] + other + content[place:],
        content[:place] + content[place + 7 :],
        other,
        FIFO,
        FOLDER,
        LOOP,
    ]
    return draw(st.sampled_from(whole))


@st.composite
def damaged_runs(draw: st.DrawFn, runs: Mapping[str, Mapping[str, bytes]]) -> Example:
    """Return a job on a run folder with one damaged file; `runs` has their files by what the run is and their name."""
    kind = draw(st.sampled_from(sorted(runs)))
    files, folder = runs[kind], RUNS[kind]
    is_board = kind == "classifier" and draw(st.booleans())
    name = draw(st.sampled_from([each for each in files if not is_board or each in READ_BY_BOARDS]))
    words = draw(st.sampled_from(BOARD_JOBS if is_board else RUN_JOBS[kind]))
    content, has_tree = files[name], name.endswith((".json", ".yaml"))
    tree = structure(content, name.endswith(".yaml")) if has_tree else raw(content)
    damage = draw(st.one_of(tree, tree, raw(content)))
    custom = {f"{folder}/adapter/custom.py": CUSTOM} if kind != "vocabulary" else {}
    return Example(tuple(word.format(run=folder) for word in words), {f"{folder}/{name}": damage, **custom})
