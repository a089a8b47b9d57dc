"""Files as strangers have them: each is used right, or refused with one sentence before anything is trained.

Each file of this folder is a sample of a kind; its texts are invented. A `Case` is a command on one of them. `right`
are patterns of the output of a command that works, `refused` those of the one sentence of a command that is refused
(exit code 2). Where both are given, either is right.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.fork_server import Finished, ForkServer

HERE = Path(__file__).parent
EXAMPLES = r"examples\s+{} to train, 0 dropped"
TRAINS = EXAMPLES.format(43)  # of 48 examples a tenth is held out
CLASSIFICATION = ("task=classification", "task.text=[text]", "task.label=label")
PREFERENCES = ("task=preferences", "task.max_target_length=32")
QUESTIONS = ("task=question_answering", "task.stride=16")
TAGS = ("task=token_classification",)
QUICK = ("train.max_steps=1", "train.per_device_train_batch_size=4")
AS_TYPED = 'cost is ${x}, C:\\new "a"'


@dataclass(frozen=True)
class Case:
    """A command on a file of this folder; without `trains` it is a job=plan, which reads the data and stops there."""

    name: str
    file: str
    words: tuple[str, ...] = CLASSIFICATION
    model: str = "bert"
    right: tuple[str, ...] | None = None
    refused: tuple[str, ...] | None = None
    trains: bool = False
    labels: tuple[str, ...] | None = None  # those of the result; with `trains`
    rows: tuple[tuple[str, int], ...] = ()  # examples of splits in the result
    slow: bool = False  # where a test of the module that decides is fast


CASES = (
    Case("control", "plain.jsonl", right=(TRAINS,)),
    Case("text is a list", "text_list.jsonl", refused=(r"\btext\b", r"\blist")),
    Case("text is an object", "text_dict.jsonl", refused=(r"\btext\b", "body"), slow=True),
    Case(
        "bytes", "binary.parquet", trains=True, right=(), labels=("neg", "pos"), rows=(("train", 43),),
    ),
    Case("label names", "multilabel_names.jsonl", right=(r"\bmulti-?label\b",), refused=(r"\bmulti-?label\b",)),
    Case("multi-hot labels", "multilabel_hot.jsonl", right=(r"\bmulti-?label\b",), refused=(r"\bmulti-?label\b",), slow=True),
    Case(
        "a text column named label", "label_text.csv", ("task=classification", "task.text=[label]", "task.label=category"),
        right=(TRAINS, r"tokens\s+419 "),
    ),
    Case(
        "a dotted column", "dotted.csv", ("task=classification", "task.text=[review.text]", "task.label=label"),
        right=(TRAINS, r"tokens\s+419 "), slow=True,
    ),
    Case("one class", "one_class.csv", refused=("one class|single class|only", "pos")),
    Case("labels differ in case", "typo", refused=("Neg", "case")),
    Case("unknown number", "numfolder", refused=(r"\b3\b", r"task\.labels=\[0,1,2,3\]")),
    Case("unknown number, fixed", "numfolder", (*CLASSIFICATION, "task.labels=[0,1,2,3]"), right=(EXAMPLES.format(36),), slow=True),
    Case("shards", "sharded", trains=True, right=(), rows=(("train", 40), ("validation", 8))),
    Case("save_to_disk", "saved_to_disk", trains=True, right=(), rows=(("train", 40), ("validation", 8)), slow=True),
    Case("semicolons", "semicolon_commas.csv", right=(TRAINS, "';'|\";\"|semicolon"), slow=True),
    Case("a sep= line", "excel_sep.csv", right=(TRAINS,)),
    Case("scores", "scored.jsonl", ("task=regression", *CLASSIFICATION[1:]), right=(TRAINS,)),
    Case(
        "smoothed scores", "scored.jsonl", ("task=regression", *CLASSIFICATION[1:], "train.label_smoothing_factor=0.1"),
        refused=("label_smoothing_factor",), slow=True,
    ),
    *(
        Case(
            f"longer than {model}", "long.jsonl", (*CLASSIFICATION, "task.max_length=1024"), model,
            right=(TRAINS, rf"\b{positions}\b"), refused=("max_length", rf"\b{positions}\b"),
        )
        for model, positions in (("bert", 64), ("roberta", 64), ("gpt2", 128))
    ),
    Case("unknown tokens of a word vocabulary", "emoji.jsonl", right=(r"unknown",)),
    Case("unknown tokens of pieces", "emoji.jsonl", model="t5", right=(r"unknown",), refused=("token", "task.verbalizer")),
    Case("labels of the same tokens", "zh_sum.jsonl", model="t5", refused=("好评", "差评")),
    Case("Chinese targets", "zh_sum.jsonl", ("task=seq2seq", *CLASSIFICATION[1:]), "t5", right=(EXAMPLES.format(54),), slow=True),
    Case("BILOU tags", "bilou.conll", TAGS, right=("BILOU",)),
    Case("a number before each word", "index_first.conll", TAGS, right=(r"\bnumbers?\b",), refused=(r"\bnumbers?\b",)),
    Case("comments", "comment.conll", TAGS, right=(r"40 (lines|comments)|comments\D+40",)),
    Case("answers without a start", "squad_no_start.json", QUESTIONS, right=("answer_start|found|search",), refused=("answer_start", "0-")),
    Case("answers whose start is null", "qa_null_starts.jsonl", QUESTIONS, right=("answer_start|found|search",), refused=("answer_start",), slow=True),
    Case("plausible answers", "squad_impossible_plausible.json", (*QUESTIONS, "task.no_answer=true"), right=("to train, 0 dropped",), slow=True),
    Case("tool calls", "chat_tools.jsonl", ("task=instructions",), "gpt2", right=("to train, 0 dropped",), refused=("tool", r"\b1\b")),
    Case("turns of weight 0", "chat_weight.jsonl", ("task=instructions", "task.max_target_length=32"), "gpt2", right=("0 dropped",), slow=True),
    Case("chosen is one turn", "dpo_dictturn.jsonl", PREFERENCES, "gpt2", right=("18 to train, 0 dropped",), refused=("chosen", "list|turn"), ),
    Case("the prompt with other spaces", "dpo_ultra_ws.jsonl", PREFERENCES, "gpt2", right=("18 to train, 0 dropped",), slow=True),
)  # fmt: skip


def parameters() -> Iterator[Any]:
    for case in CASES:
        yield pytest.param(case, id=case.name, marks=pytest.mark.slow if case.slow else ())


@pytest.mark.parametrize("case", parameters())
def test_a_file_is_used_right_or_refused(
    case: Case, fork_server: ForkServer, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    run = QUICK if case.trains else ("job=plan", "task.max_train_samples=null")
    words = tiny(case.model, *case.words, f"task.dataset={HERE / case.file}", *run)
    finished = fork_server.run([word for word in words if word != "task.max_train_samples=24"], tmp_path)
    check(finished, case.right, case.refused)
    if case.trains:
        audit = result(tmp_path)["audit"]
        assert case.labels is None or audit["label_names"] == list(case.labels)
        assert dict(case.rows).items() <= audit["rows"].items()


@pytest.mark.parametrize("name", ["rouge_l", "token_f1"])
def test_equal_chinese_texts_score_one_and_others_less(name: str) -> None:
    from peftkit.metrics import METRICS

    score = METRICS[name].score
    assert score([["渡船准时出发"]], ["渡船准时出发"]) == 1
    assert 0 < score([["渡船准时出发"]], ["渡船很晚出发"]) < 1
    assert score([["渡船"]], ["汤是"]) == 0


@pytest.mark.parametrize("name", ["id_timestamp", "id_decimal"])
def test_ids_of_any_type_come_back(
    name: str, fork_server: ForkServer, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    file = HERE / f"{name}.parquet"
    finished = fork_server.run(tiny("bert", *CLASSIFICATION, f"task.dataset={file}", *QUICK), tmp_path)
    check(finished, ())
    column = pq.read_table(folder(tmp_path) / "predictions.parquet").to_pylist()
    given = pq.read_table(file)["id"].to_pylist()
    texts = {*map(str, given), *(each.isoformat() for each in given if hasattr(each, "isoformat"))}
    found = [row.get("id", row.get("idx")) for row in column]
    assert found and all(each in given or str(each) in texts for each in found)


def test_a_missing_shard_is_refused(fork_server: ForkServer, tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    copy = tmp_path / "sharded"
    shutil.copytree(HERE / "sharded", copy)
    (copy / "train-00001-of-00002.parquet").unlink()
    check(
        fork_server.run(tiny("bert", *CLASSIFICATION, f"task.dataset={copy}", "job=plan"), tmp_path),
        refused=(r"1 of 2|00001-of-00002",),
    )


def test_a_prompt_repeated_with_other_spaces_is_the_prompt(
    fork_server: ForkServer, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    pairs = [json.loads(line) for line in (HERE / "dpo_ultra_ws.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = [{**pair, "chosen": pair["chosen"][1:], "rejected": pair["rejected"][1:]} for pair in pairs]
    plain = tmp_path / "plain.jsonl"
    plain.write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
    tokens = []
    for file in (HERE / "dpo_ultra_ws.jsonl", plain):
        finished = fork_server.run(tiny("gpt2", *PREFERENCES, f"task.dataset={file}", "job=plan"), tmp_path)
        check(finished, (r"0 dropped",))
        tokens.append(re.search(r"tokens\s+([\d,]+)", finished.stdout)[1])  # type: ignore[index]
    assert tokens[0] == tokens[1]


@pytest.fixture(scope="module")
def trained(fork_server: ForkServer, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of the control."""
    cwd = tmp_path_factory.mktemp("trained")
    words = [
        "model=bert", f"model.checkpoint={checkpoints['bert']}", "source=offline", "out=outputs", *CLASSIFICATION,
        f"task.dataset={HERE / 'plain.jsonl'}", *QUICK,
    ]  # fmt: skip
    check(fork_server.run(words, cwd), ())
    return folder(cwd)


def test_every_example_of_a_file_with_newlines_is_answered(
    fork_server: ForkServer, trained: Path, tmp_path: Path
) -> None:
    source, target = HERE / "newline_pred.csv", tmp_path / "x.tsv"
    check(fork_server.run(["job=predict", f"run={trained}", f"input={source}", f"output={target}"], tmp_path), ())
    with source.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with target.open(encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file, delimiter="\t"))
    assert len(answers) == len(texts) and {row["prediction"] for row in answers} <= {"neg", "pos"}


@pytest.mark.parametrize("text", [AS_TYPED, "it's a {b} [c], d=e", "5", "汤是凉的" * 30])
def test_a_text_is_predicted_as_typed(text: str, fork_server: ForkServer, trained: Path, tmp_path: Path) -> None:
    finished = fork_server.run(["job=predict", f"run={trained}", f"input={text}", "output=x.jsonl"], tmp_path)
    check(finished, ())
    (row,) = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["text"] == text and row["prediction"] in ("neg", "pos")


def check(finished: Finished, right: tuple[str, ...] | None = None, refused: tuple[str, ...] | None = None) -> None:
    """Compare how a command ended with the patterns of either outcome."""
    output = re.sub(rf"{re.escape(str(HERE))}/\S*", "FILE", finished.output)  # a name must not match
    assert "Traceback" not in output, output
    if finished.code == 0:
        assert right is not None, f"not refused:\n{output}"
        expected = right
    else:
        assert finished.code == 2 and refused is not None, f"exit code {finished.code}:\n{output}"
        assert len(finished.stderr.splitlines()) == 1, output
        expected = refused
    assert not (missing := [each for each in expected if not re.search(each, output)]), f"{missing} not in\n{output}"


def folder(cwd: Path) -> Path:
    """Return the only run folder below outputs."""
    (found,) = (cwd / "outputs").rglob("result.json")
    return found.parent


def result(cwd: Path) -> Any:
    return json.loads((folder(cwd) / "result.json").read_text(encoding="utf-8"))
