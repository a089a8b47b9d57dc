"""Signed sums of what runs changed: exact in the space of weights, scored under each run's own head, as run folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.interruption import leave_unfinished
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import peftkit
from peftkit.config import UserError
from peftkit.data.miniglue import sentences
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
RATES = {"lora": "0.05", "ia3": "0.3", "full": "0.003", "bitfit": "0.05", "ln_tuning": "0.05"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "held_out.txt"
    file.write_text("\n".join(list(sentences(80, seed=7))))
    return file


@pytest.fixture
def combine(tmp_path: Path, text: Path) -> Callable[..., list[Path]]:
    """Return a function that combines runs and returns the folders that it wrote; with `failing` that one fails."""

    def start(runs: list[Path], weights: list[float], *more: str, failing: Path | None = None) -> list[Path]:
        found: list[Path] = []

        def on_start(folder: Path) -> None:
            found.append(folder)
            if folder == failing:
                raise OSError("no space left on device")

        chosen = [f"runs=[{','.join(map(str, runs))}]", f"weights={weights}".replace(" ", "")]
        overrides = ["job=combine", "source=offline", f"out={tmp_path}/combined", f"input={text}", *chosen, *more]
        assert check(overrides) == []
        commands.run(overrides, on_start=on_start)
        return found

    return start


def train(tiny: Overrides, model: str, method: str, task: str, *more: str) -> Path:
    (folder,) = commands.finetune(
        *tiny(model, f"method={method}", f"task={task}", f"train.learning_rate={RATES[method]}", *more)
    )
    return folder


@pytest.mark.slow
def test_a_combination_is_a_run_and_an_entry_of_the_board(
    tiny: Overrides, combine: Callable[..., list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {seed: [train(tiny, "bert", "lora", task, f"seed={seed}") for task in ("sst2", "mrpc")] for seed in (0, 1)}
    found = [folder for seed in (0, 1) for folder in combine(runs[seed], [1, -0.5])]
    assert [folder.parent.name for folder in found] == ["combine"] * 4
    record = RunResult(found[0]).record
    assert record["gates"]["reload_difference"] < 1e-4 and record["forgetting"]["curve"][0]["scale"] == 1
    assert record["costs"]["trainable_params"] == sum(RunResult(each).costs["trainable_params"] for each in runs[0])
    assert (found[0] / "README.md").is_file() and (found[0] / "report.html").is_file()
    assert peftkit.predict(found[0], ["a fine film"])[0].prediction in RunResult(found[0]).label_names
    commands.evaluate(found[0], "source=offline")
    again = combine(runs[0], [1, -0.5])
    assert again == found[:2] and "finished already" in capsys.readouterr().err
    with pytest.raises(OSError, match="no space left"):
        combine(runs[0], [1, -0.5], failing=found[1])
    assert "of the disabled method" in capsys.readouterr().out  # the table of the first task
    leave_unfinished(found[1])
    assert combine(runs[0], [1, -0.5]) == found[:2] and RunResult(found[1]).record["meta"]["status"] == "finished"
    board = peftkit.leaderboard(tmp_path / "combined")
    assert {(each.task, each.method, tuple(each.seeds)) for each in board.entries if not each.is_baseline} == {
        ("sst2", "combine", (0, 1)),
        ("mrpc", "combine", (0, 1)),
    }
    combine(runs[0], [1, 1])
    labels = {each.settings.partition("]")[0] for each in peftkit.leaderboard(tmp_path / "combined").entries}
    assert {"weights=[1, -0.5", "weights=[1, 1"} <= {label.replace(".0", "") for label in labels}
    with pytest.raises(UserError, match="give a model whose scores are NaN or inf; use smaller ones"):
        combine(runs[0], [1e308, 1])
    nested, _ = combine([found[0], runs[0][1]], [1, 0.5])  # a combination has a change too: this removes -0.5
    texts = ["a fine film", "a bad film"]
    expected = [each.scores for each in peftkit.predict(runs[0][0], texts)]  # in bf16
    assert [each.scores for each in peftkit.predict(nested, texts)] == [
        pytest.approx(each, abs=1e-3) for each in expected
    ]


def test_one_run_is_interpolated(
    tiny: Overrides, combine: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    left_out = "task.shift=[covariate]", "task.domain=domain", "domains.leave_out=forum", "task.max_eval_samples=200"
    run = train(tiny, "gpt2", "lora", "sst2", *left_out)
    (folder,) = combine([run], [1], "combine.interpolate=[0,0.5,2]")
    record = RunResult(folder).record
    assert record["domains"]["scores"] == RunResult(run).record["domains"]["scores"]  # of one domain, that is scored
    assert RunResult(folder).scores == RunResult(run).scores and record["gates"]["reload_difference"] < 1e-4
    found = record["forgetting"]
    assert [point["scale"] for point in found["curve"]] == [0, 0.5, 1, 2]
    assert found["curve"][2]["score"] == RunResult(run).scores["accuracy"]
    assert found["curve"][0]["loss"] == pytest.approx(found["before"], abs=1e-6)
    assert f"+1 x sst2/{run.parents[1].name}/lora/{run.name}" in (folder / "README.md").read_text()
    assert (folder / "interpolation.png").read_bytes().startswith(b"\x89PNG")
    assert "General loss by scale" in (folder / "report.html").read_text()
    assert combine([run], [1]) == [folder] and "finished already" in capsys.readouterr().err
    text = r"a scale of combine.interpolate=\[0,1e\+30\] gives a model whose scores are NaN or inf; use smaller ones"
    with pytest.raises(UserError, match=text):
        combine([run], [1], "combine.interpolate=[0,1e30]")


@pytest.mark.slow
def test_a_point_of_the_interpolation_is_the_combination_of_that_weight(
    tiny: Overrides, combine: Callable[..., list[Path]]
) -> None:
    run = train(tiny, "bert", "full", "sst2")
    (whole,) = combine([run], [1], "combine.interpolate=[0.5]")
    (half,) = combine([run], [0.5])
    point, at_half = RunResult(whole).record["forgetting"]["curve"][0], RunResult(half).record
    assert point["loss"] == pytest.approx(at_half["forgetting"]["after"], abs=1e-5)
    assert point["score"] == at_half["scores"]["accuracy"]["value"]


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["combine.extract_rank=4", "combine.method=cat"])
def test_an_adapter_is_a_run_and_loads_in_plain_peft(
    tiny: Overrides, combine: Callable[..., list[Path]], checkpoints: dict[str, Path], setting: str
) -> None:
    method = "full" if "rank" in setting else "lora"
    runs = [train(tiny, "bert", method, task) for task in ("sst2", "mrpc")]
    folder, _ = combine(runs, [1, 0.5], setting)
    names = RunResult(folder).label_names
    config = AutoConfig.from_pretrained(folder / "adapter" / "base")
    base = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"], config=config)
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "adapter")
    with torch.no_grad():
        logits = model(**tokenizer("a fine film", return_tensors="pt")).logits[0]
    found = peftkit.predict(folder, ["a fine film"])[0]
    assert found.scores == pytest.approx(logits.tolist(), abs=1e-3) and found.prediction in names
    assert commands.merge(folder)


@pytest.mark.slow
def test_an_adapter_of_the_hub_is_combined_from_its_cache(
    tiny: Overrides,
    combine: Callable[..., list[Path]],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository, commit = tmp_path / "hub" / "models--me--adapter", "0" * 40
    snapshot = repository / "snapshots" / commit
    base = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"])
    settings = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    get_peft_model(base, settings).save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    run = train(tiny, "bert", "lora", "sst2")
    (folder,) = combine([run, Path("me/adapter")], [1, -0.5])
    (same,) = combine([run, snapshot], [1, -0.5])
    assert RunResult(folder).record["combination"]["runs"][1]["folder"] == "me/adapter"
    texts = ["a fine film", "a bad film"]
    assert peftkit.predict(folder, texts) == peftkit.predict(same, texts)
    with pytest.raises(UserError, match="runs=me/other is no folder, and neither on the Hub nor in its cache"):
        combine([run, Path("me/other")], [1, 1])
    (snapshot / "adapter_model.safetensors").rename(snapshot / "adapter_model.bin")
    (message,) = check(["job=combine", f"runs=[{run},{snapshot}]", "source=offline"])
    assert "pickled weights can contain code" in message


def test_what_cannot_be_combined_is_refused_in_one_sentence(
    tiny: Overrides, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backup").mkdir()
    lora = train(tiny, "bert", "lora", "sst2")

    def messages(runs: list[Path], *more: str) -> list[str]:
        return check(["job=combine", f"runs=[{','.join(map(str, runs))}]", "source=offline", *more])

    def copied(name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        """Return a copy of the run whose result differs."""
        folder = tmp_path / name
        shutil.copytree(lora / "adapter", folder / "adapter")
        record = json.loads((lora / "result.json").read_text())
        change(record)
        (folder / "result.json").write_text(json.dumps({**record, "files": {}}))
        return folder

    source: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record["audit"]["sources"]["model"]  # noqa: E731
    config: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record["run"]["config"]  # noqa: E731
    other = copied("other", lambda record: source(record).update(revision="another"))
    short = copied("short", lambda record: config(record)["model"].update(keep_layers=[0]))
    fixed = copied("fixed", lambda record: config(record)["method"]["traits"].update(mergeable=False))
    pruned = copied("pruned", lambda record: config(record)["prune"].update(heads=0.5))
    failed = copied("failed", lambda record: record["meta"].update(status="failed"))
    for runs, more, sentence in (
        ([lora, lora], ["weights=[1]"], "weights= has 1 number for 2 runs; use weights=[1,1]"),
        ([lora, lora], ["combine.method=ties"], "combine.method=ties needs a share to keep; set combine.density=0.2"),
        ([lora], ["combine.method=cat"], "combine.method=cat combines several runs; use combine.method=exact"),
        ([lora, lora], ["weights=[1,b]"], "weights=[1, 'b']: expected a list of numbers or null"),
        ([lora, lora], ["weights=[1,nan]"], "weights=nan: expected a finite number"),
        ([lora, other], [], "name runs of one base"),
        ([lora, short], [], "layers [0]"),
        ([lora, fixed], [], "is no change of the base's weights"),
        ([lora, pruned], [], "has fewer attention heads than its base; name the run that it was pruned from"),
        ([lora, failed], [], "is failed"),
        ([lora / "adapter"], [], "add a run of peftkit, whose task is scored"),
        ([Path("me/adapter")], [], "has only adapters of other programs (me/adapter: no such folder, so of the Hub)"),
        ([lora, Path("backup/typo")], [], "runs=backup/typo contains no result.json"),
        ([lora, Path("new/typo")], ["out=new"], "runs=new/typo contains no result.json"),
        ([lora, tmp_path / "none"], [], "contains no result.json"),
        ([lora], ["method=ia3"], "job=combine ignores method=ia3: the rest comes from the runs"),
    ):
        (message,) = messages(runs, *more)
        assert sentence in message and "\n" not in message
    assert "weights= is not for job=finetune" in check(["weights=[1]"])[0]
