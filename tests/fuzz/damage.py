"""Random damage to the files of a run folder, and the jobs that read them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from hypothesis import strategies as st

from fuzz.commands import CODE, NESTED, RUN, TEXTS
from fuzz.oracle import FIFO, FOLDER, LOOP, Example

READ_BY_BOARDS = ("result.json", "config.yaml")
LOADED = (
    "adapter/adapter_config.json",
    "adapter/tokenizer.json",
    "adapter/tokenizer_config.json",
    "config.yaml",
    "result.json",
)
BOARD_JOBS = (("job=leaderboard",), ("job=submission", "output=outputs/x.zip"))
RUN_JOBS = (
    ("job=predict", f"run={RUN}", "input=a fine film"),
    ("job=evaluate", f"run={RUN}", "out=outputs"),
    ("job=merge", f"run={RUN}"),
    ("job=embed", f"run={RUN}", "input=a fine film", "output=outputs/v.npy"),
    ("job=forgetting", f"run={RUN}", "input=data/texts.txt"),
    ("job=plan", "model=bert", f"model.checkpoint={RUN}", "source=offline", "task=sst2", "task.max_train_samples=8"),
    ("job=plan", "model=bert", f"model.checkpoint={RUN}/adapter", "source=offline", "task=sst2", "task.max_train_samples=8"),
    ("job=plan", "model=bert", "model.checkpoint=models/bert", f"distill.teacher={RUN}", "source=offline", "task=classification", "task.dataset=data/plain.jsonl", "task.text=[text]"),
)  # fmt: skip
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
CUSTOM = {f"{RUN}/adapter/custom.py": b"import pathlib\npathlib.Path('ran').touch()\nclass Model: pass\n"}


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
def damaged_runs(draw: st.DrawFn, run: Mapping[str, bytes]) -> Example:
    """Return a job on a run folder with one damaged file; `run` has its files by relative name."""
    is_board = draw(st.booleans())
    name = draw(st.sampled_from([each for each in (READ_BY_BOARDS if is_board else LOADED) if each in run]))
    words = draw(st.sampled_from(BOARD_JOBS if is_board else RUN_JOBS))
    content = draw(
        st.one_of(
            structure(run[name], name.endswith(".yaml")), structure(run[name], name.endswith(".yaml")), raw(run[name])
        )
    )
    return Example(words, {f"{RUN}/{name}": content, **CUSTOM})
