"""job=generate: validated early, run with an endpoint or a local model, resumed, loaded by datasets, and trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.commands import check
from helpers.fork_server import ForkServer
from helpers.scripted_server import serving

from peftkit.config import UserError
from peftkit.leaderboard.reading import collect
from peftkit.results import run_folder

ENDPOINT = ["recipe=self_instruct", "generate.generator=endpoint", "generate.endpoint_model=scripted"]


def run(*overrides: str) -> Path:
    assert check(overrides) == []
    folder = commands.run(overrides)
    assert folder is not None
    return folder


@pytest.mark.parametrize(
    ("overrides", "answers"),
    [
        (
            ["job=generate", "generate.generator=endpoint", "generate.key_env=sk-12ab", "generate.request.api_key=x",
             "generate.max_cost=1", "generate.seeds=nowhere.jsonl", "generate.decontaminate=[mrcp,x.jsonl]"],
            ["set generate.base_url=http://127.0.0.1:8000/v1", "use generate.endpoint_model=NAME",
             "takes the name of a variable", "generate.request.api_key is refused", "needs prices",
             "nowhere.jsonl: no such file", "did you mean mrpc?", "x.jsonl: no such file, folder or task"],
        ),
        ([*ENDPOINT, "generate.base_url=localhost:8000"], ["is not a URL"]),
        ([*ENDPOINT, "generate.base_url=http://me:secret@x/v1"], ["must not contain secrets"]),
        ([*ENDPOINT, "generate.base_url=https://api.openai.com/v1", "generate.key_env=NO_SUCH"], ["export NO_SUCH="]),
        (
            ["job=generate", "generate.endpoint_model=x", "task=mrpc"],
            ["use generate.generator=endpoint", "model=bert is an encoder, which generates no text; use model=gpt2", "ignores task=mrpc"],
        ),
        (
            ["recipe=self_instruct", "generate.algorithm=self_instruc", "generate.instruction_length=[5]", "generate.max_rouge_l=0",
             "generate.quantization.load_in_4bits=true"],
            ["did you mean generate.algorithm=self_instruct?", "use generate.instruction_length=[3,150]", "above 0",
             "did you mean generate.quantization.load_in_4bit?"],
        ),
        (["generate.seeds=x"], ["not for job=finetune; drop it, or use job=generate"]),
    ],
)  # fmt: skip
def test_each_mistake_has_its_message(overrides: list[str], answers: list[str]) -> None:
    sentences = check(overrides)
    for answer in answers:
        assert any(answer in sentence for sentence in sentences), sentences
    assert not any("secret@" in sentence or "sk-12ab" in sentence for sentence in sentences)


def test_both_algorithms_pass_validation() -> None:
    assert check(["job=generate", "recipe=self_instruct"]) == check(["recipe=evol_instruct", "model=t5"]) == []


def test_an_endpoint_run_from_seeds_to_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset

    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    (tmp_path / "eval.txt").write_text("for a busy nurse\n")  # no instruction equals it
    seeds = tmp_path / "seeds.jsonl"
    row = {"id": "u", "instruction": "Sing.", "instances": [{"input": "", "output": "la"}]}
    seeds.write_text(
        "".join(json.dumps({**row, "id": f"u{n}", "instruction": f"Sing song {n}."}) + "\n" for n in range(9))
    )
    with serving(pool=1500) as server:
        overrides = [
            *ENDPOINT, f"generate.base_url={server.address}", "generate.key_env=MY_KEY", f"out={tmp_path}/out",
            "generate.num_instructions=20", f"generate.seeds={seeds}", f"generate.decontaminate=[{tmp_path}/eval.txt]",
            "generate.price_in=1", "generate.price_out=2",
        ]  # fmt: skip
        folder = run(*overrides)
        sent = len(server.seen)
        assert run(*overrides) == folder and len(server.seen) == sent  # finished already
        kept = (folder / "kept.jsonl").read_text()
        assert run(*overrides, "generate.num_instructions=40") == folder and len(server.seen) > sent
        assert (folder / "kept.jsonl").read_text().startswith(kept)
    result = json.loads((folder / "result.json").read_text())
    assert result["meta"]["status"] == "finished" and result["ended"] == "num_instructions"
    assert result["counts"]["kept"] >= 40 and result["costs"]["cost"] > 0
    assert result["audit"]["evaluation_sets"][0]["rows"] == 1 and result["audit"]["seeds"]["tasks"] == 9
    tasks = load_dataset(str(folder), "tasks", split="train")
    assert tasks.column_names == ["id", "name", "instruction", "instances", "is_classification"]
    assert len(tasks) == result["counts"]["kept"]
    chat = load_dataset(str(folder), split="train")
    assert [turn["role"] for turn in chat[0]["messages"]] == ["user", "assistant"]
    assert len(chat) == result["kept"]["instances"]
    assert (folder / "similarity.png").read_bytes().startswith(b"\x89PNG")
    texts = "".join(file.read_text() for file in folder.iterdir() if file.suffix in (".json", ".jsonl", ".yaml", ".md"))
    assert "sk-very-secret" not in texts and "MY_KEY" in texts
    assert collect([tmp_path]) == []


def test_a_failed_run_records_its_reason_and_continues(tmp_path: Path) -> None:
    broken = {"now": False}
    with serving(lambda number, body: {"status": 500} if broken["now"] and number > 30 else None, pool=1500) as server:
        overrides = [
            *ENDPOINT,
            f"generate.base_url={server.address}",
            f"out={tmp_path}",
            "generate.num_instructions=30",
            "generate.retries=0",
        ]
        broken["now"] = True
        with pytest.raises(Exception, match="no reply in 1 attempts"):
            run(*overrides)
        (file,) = tmp_path.rglob("result.json")
        assert json.loads(file.read_text())["meta"]["status"] == "failed"
        broken["now"] = False
        folder = run(*overrides)
    assert folder == file.parent and json.loads(file.read_text())["meta"]["status"] == "finished"


def test_an_endpoint_run_imports_no_torch() -> None:
    code = (
        "import sys; import peftkit.jobs.generate, peftkit.generation.generators.endpoint\n"
        "assert not {'torch', 'transformers', 'datasets', 'matplotlib'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_task_is_an_evaluation_set_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(pool=800) as server:
        folder = run(
            *ENDPOINT, f"generate.base_url={server.address}", f"out={tmp_path}", "generate.num_instructions=5",
            "generate.decontaminate=[rte]", "source=offline",
        )  # fmt: skip
    (fact,) = json.loads((folder / "result.json").read_text())["audit"]["evaluation_sets"]
    assert fact["name"] == "rte" and fact["rows"] > 100
    assert "EVALUATION SET rte: miniglue (offline) replaces nyu-mll/glue" in capsys.readouterr().err


@pytest.mark.slow
def test_an_endpoint_command_imports_no_torch(tmp_path: Path) -> None:
    with serving(pool=800) as server:
        overrides = [*ENDPOINT, f"generate.base_url={server.address}", f"out={tmp_path}", "generate.num_instructions=5"]
        code = (
            "import sys; from peftkit.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit as done: print(done.code, [m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code, *overrides], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize("model", ["gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_local_model_generates(checkpoints: dict[str, Path], tmp_path: Path, model: str) -> None:
    overrides = [
        "recipe=self_instruct", f"model={model}", f"model.checkpoint={checkpoints[model]}", "source=offline", f"out={tmp_path}",
        "generate.patience=1", "generate.batch=2", "generate.max_new_tokens=16", "generate.max_answer_tokens=16",
    ]  # fmt: skip
    folder = run(*overrides)
    result = json.loads((folder / "result.json").read_text())
    assert result["ended"] == "patience" and result["counts"]["rejected"] > 0
    assert result["costs"]["tokens_out"] > 0


@pytest.mark.slow
def test_a_local_model_in_four_bits_generates(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    overrides = [
        "recipe=evol_instruct", f"model.checkpoint={checkpoints['gpt2']}", "source=offline", f"out={tmp_path}",
        "generate.patience=1", "generate.batch=2", "generate.max_answer_tokens=16", "generate.quantization.load_in_4bit=true",
    ]  # fmt: skip
    assert json.loads((run(*overrides) / "result.json").read_text())["counts"]["rejected"] > 0


def test_a_task_of_a_config_folder_is_an_evaluation_set_by_its_name(fork_server: ForkServer, tmp_path: Path) -> None:
    data = tmp_path / "exam.jsonl"
    data.write_text("".join(json.dumps({"text": f"an exam question {n}", "label": n % 2}) + "\n" for n in range(20)))
    (tmp_path / "task").mkdir()
    lines = ["defaults: [classification]", "name: exam", f"dataset: {data}", "text: [text]", "label: label"]
    (tmp_path / "task" / "exam.yaml").write_text("\n".join(lines) + "\n")
    with serving(pool=800) as server:
        overrides = [
            *ENDPOINT, f"generate.base_url={server.address}", f"out={tmp_path}/out", "generate.num_instructions=5",
            "generate.decontaminate=[exam]", "source=offline",
        ]  # fmt: skip
        assert check(overrides, tmp_path) == []
        assert any("generate.decontaminate=exam" in message for message in check(overrides))
        assert fork_server.run(["-cd", str(tmp_path), *overrides], tmp_path).code == 0
    (file,) = (tmp_path / "out").rglob("result.json")
    (record,) = json.loads(file.read_text())["audit"]["evaluation_sets"]
    assert record["name"] == "exam" and record["rows"] > 0


Overrides = Callable[..., list[str]]
CHAIN = [
    "recipe=sft_self_instruct",
    "generate.num_instructions=12",
    "method=lora",
    "task.max_length=96",
    "task.max_target_length=8",
]


def train(overrides: list[str]) -> Path:
    assert check(overrides) == []
    folder = commands.run(overrides, "sft_self_instruct")
    assert folder is not None
    return folder


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["generate.algorithm=evol_instruct"], "set generate.algorithm=self_instruct"),
        (["generate.generator=endpoint"], "set generate.base_url=http://127.0.0.1:8000/v1"),
        (["generate.model=./nowhere"], "generate.model=./nowhere: no such folder"),
        (["generate.decontaminate=[mrcp]"], "did you mean mrpc?"),
        (["model=bert"], "model=bert (encoder) has no head"),
    ],
)
def test_mistakes_are_refused_before_any_request(overrides: list[str], answer: str) -> None:
    assert any(answer in sentence for sentence in check(["recipe=sft_self_instruct", *overrides]))


def test_an_evaluation_generates_nothing() -> None:
    overrides = ["job=evaluate", "run=x", "task=instructions", "task.dataset=self_instruct"]
    assert any("set task.dataset=outputs/generate/" in sentence for sentence in check(overrides))


def test_a_plan_generates_nothing(tiny: Overrides) -> None:
    overrides = tiny("gpt2", *CHAIN, "job=plan")
    with pytest.raises(UserError, match="run job=generate seed=0 first"):
        commands.run(overrides)


def test_a_lower_number_does_not_train_on_the_tasks_of_a_higher_one(tiny: Overrides) -> None:
    overrides = tiny("gpt2", *CHAIN, "generate.batch=4", "job=plan")
    with pytest.raises(UserError) as missing:
        commands.run(overrides)
    folder = Path(str(missing.value).partition(": its tasks")[0])
    config = {"generate": {"num_instructions": 600}}
    run_folder.write_result(
        folder, {"run": {"config": config}, "counts": {"kept": 602}, "meta": {"status": "finished"}}
    )
    with pytest.raises(
        UserError,
        match=r"has 602 tasks, more than generate.num_instructions=12; use generate.num_instructions=600, or out=FOL",
    ):
        commands.run(overrides)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_from_seeds_to_a_board_entry(
    tiny: Overrides, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(tiny(model, *CHAIN))
    (data,) = (tmp_path / "outputs" / "generate").rglob("result.json")
    recorded = result(folder)
    assert recorded["run"]["config"]["task"]["dataset"] == str(data.parent)
    source = recorded["audit"]["sources"]["data"]
    assert source["name"] == f"{data.parent}/chat" and source["revision"]
    assert source["substituted_for"] == "tasks by Qwen/Qwen2.5-1.5B-Instruct"
    assert "replaces tasks by Qwen/Qwen2.5-1.5B-Instruct" in (folder / "README.md").read_text()
    made = data.parent / "journal.jsonl"
    before = made.stat().st_mtime_ns
    other = train(tiny(model, *CHAIN, "seed=1"))  # another seed trains on the same data
    assert other != folder and result(other)["audit"]["sources"]["data"] == source
    assert (
        made.stat().st_mtime_ns == before and len(list((tmp_path / "outputs" / "generate").rglob("result.json"))) == 1
    )
    assert train(tiny(model, *CHAIN)) == folder
    assert "finished already" in capsys.readouterr().err
    more = train(tiny(model, *CHAIN, "generate.num_instructions=24"))  # continues in the folder, and is another run
    assert more != folder and result(more)["audit"]["sources"]["data"]["revision"] != source["revision"]
    rows = collect([tmp_path / "outputs"])
    assert len(rows) == 3 and not any(getattr(row, "problem", None) for row in rows)
    by_hand = train(
        tiny(model, *CHAIN[2:], "task=instructions", f"task.dataset={data.parent}", "generate.num_instructions=24")
    )
    assert result(by_hand)["audit"]["sources"]["data"] == result(more)["audit"]["sources"]["data"]


@pytest.mark.slow
def test_a_generator_without_useful_output_ends_the_run(tiny: Overrides, checkpoints: dict[str, Path]) -> None:
    few = ["generate.patience=1", "generate.batch=2", "generate.max_new_tokens=8", "generate.max_answer_tokens=8"]
    overrides = tiny("gpt2", *CHAIN, *few, f"generate.model={checkpoints['gpt2']}")
    with pytest.raises(UserError, match="use another generator"):
        commands.run(overrides)
