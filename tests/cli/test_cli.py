"""The command line answers fast, refuses with a sentence, and sweeps as recipes say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from peftkit import paths
from peftkit.cli import check, compose_config, expand_sweep
from peftkit.cli.validate import options_of


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "peftkit", *words], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["recipe=lora_gleu"], ["train.lerning_rate=1"]])
def test_light_answers_import_no_torch(words: list[str]) -> None:
    code = (
        "import sys; from peftkit.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_help_opens_with_every_recipe() -> None:
    text = run("--help").stdout
    assert text.index("COOKBOOK") < text.index("JOBS")
    for name in paths.recipes():
        assert f"  {name} " in text


def test_a_typo_exits_with_2_and_no_traceback() -> None:
    done = run("methd=lora", "method=lorra", "train.lerning_rate=1", "method.config.rr=2")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for right in ("method?", "method=lora?", "train.learning_rate?"):
        assert f"did you mean {right}" in done.stderr


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("recipe=lora_gleu", "did you mean recipe=lora_glue?"),
        ("sed=3", "did you mean seed?"),
        ("model.checkpont=x", "did you mean model.checkpoint?"),
        ("train.num_train_epoch=3", "did you mean train.num_train_epochs?"),
        ("method.config.lora_alfa=3", "did you mean method.config.lora_alpha?"),
        ("train.lr_scheduler_type=linaer", "one of linear"),
        ("method.config.r=big", "it takes int"),
        ("task.max_length=x", "it takes int"),
        ("seed=-1", "must be 0 or more"),
        ("source=net", "there are: auto, hub, offline"),
        ("train.output_dir=x", "use out="),
        ("method.config._target_=os.system", "may only name classes of peft"),
        ("job=predict", "needs a run folder"),
        ("data_root=/nowhere", "is no folder"),
        ("a b", "cannot read"),
        ("train.report_to=tensorbord", "did you mean tensorboard?"),
        ("train.report_to=neptune", "needs the package neptune"),
        ("model.checkpoint=./nowhere", "is no folder"),
        ("search.lr_multipliers=3", "say search.lr_multipliers=[3]"),
        ("search=3", "say search.lr_multipliers=[3]"),
    ],
)
def test_each_mistake_gets_its_sentence(word: str, answer: str) -> None:
    assert any(answer in sentence for sentence in check([word]))


@pytest.mark.parametrize("is_sweep", [True, False])
@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("search=[0.3,1,3]", "search.lr_multipliers=[0.3,1,3]"),
        ("search=0.3,1", "search.lr_multipliers=[0.3,1]"),
        ("search.lr_multipliers=0.3,1", "search.lr_multipliers=[0.3,1]"),
        ("task.metrics=accuracy,f1", "task.metrics=[accuracy,f1]"),
    ],
)
def test_values_without_the_brackets_of_their_list_get_one_sentence(word: str, right: str, is_sweep: bool) -> None:
    (sentence,) = check([word], multirun=is_sweep)
    assert sentence.startswith(f"{word} ") and sentence.endswith(f"; say {right}")


def test_a_sweep_over_lists_is_one() -> None:
    assert check(["search.lr_multipliers=[0.3,1],[1,3]", "task.metrics=[accuracy],[f1]"]) == []


def test_a_list_where_a_recipe_needs_keys_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("search: [0.3, 1]\n")
    (sentence,) = check(["recipe=mine"], tmp_path)
    assert sentence.endswith("rates to try are search: {lr_multipliers: [0.3, 1, 3]}")


def test_upstream_options_need_no_plus() -> None:
    assert check(["train.adam_beta2=0.98", "method.config.use_rslora=true"]) == []
    assert compose_config(["train.adam_beta2=0.98"]).train.adam_beta2 == 0.98


def test_wrong_cells_are_refused_with_a_way_out() -> None:
    (sentence,) = check(["model=t5", "method=linear_probe"])
    assert "try method=ln_tuning or method=lora" in sentence


def test_recipe_sweeps_all_nine_tasks_and_the_command_line_narrows_it() -> None:
    assert len(expand_sweep(["recipe=lora_glue"])) == 9
    assert expand_sweep(["recipe=lora_glue", "task=sst2"]) == [["recipe=lora_glue", "task=sst2"]]
    assert len(expand_sweep(["recipe=lora_glue", "task=sst2,rte", "seed=0,1"])) == 4
    assert len(expand_sweep(["recipe=claims/small_data", "task.max_train_samples=500", "method=full,lora"])) == 6


def test_a_sweep_without_m_is_refused() -> None:
    assert any("add -m" in sentence for sentence in check(["method=lora,ia3"], multirun=False))


@pytest.mark.parametrize("name", sorted(paths.recipes()))
def test_every_shipped_recipe_is_valid(name: str) -> None:
    more = ["task.dataset=pyproject.toml"] if name in ("own_data", "contrastive", "sft_self_instruct", "dpo") else []
    more += ["task.text=[a]"] if name == "own_data" else []
    more += ["extend.terms=pyproject.toml"] if name.startswith("extend_") else []
    more += ["task.dataset=tests"] if name.startswith("adapt_") else []
    more += (
        ["task=mrpc,stsb"] if name == "glue_leaderboard" else []
    )  # all that its tasks differ in; each takes a second
    assert check([f"recipe={name}", *more]) == []


@pytest.mark.parametrize("group", ["model", "method", "task"])
def test_every_part_composes(group: str) -> None:
    for option in options_of(group):
        assert compose_config([f"{group}={option}"])[group]["name"]


def test_recipes_of_the_working_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("# Mine.\ndefaults:\n  - override /task: rte\n")
    done = run("recipe=mine", "--cfg", "job", cwd=tmp_path)
    assert "name: rte" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipes"]


def test_own_parts_and_recipes_come_with_cd(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "lora16.yaml").write_text((paths.conf_folder() / "method" / "lora.yaml").read_text())
    done = run("-cd", str(tmp_path), "method=lora16", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "peft.LoraConfig" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["job=predict", "run=x", "input=a text", "method=ia3"], "job=predict does not look at method=ia3"),
        (["job=predict", "run=x", "input=a text", "train.seed=1"], "job=predict does not look at train.seed=1"),
        (["job=leaderboard", "task=mrpc"], "it shows every run below out="),
        (["job=evaluate", "run=x", "seed=3"], "job=evaluate does not look at seed=3"),
        (["job=predict", "run=x", "input=notes.txt"], "input=notes.txt is none of .csv"),
        (["job=merge", "run=x", "output=pyproject.toml"], "job=merge writes a folder"),
    ],
)
def test_what_a_job_would_ignore_is_refused(words: list[str], sentence: str) -> None:
    assert any(sentence in complaint for complaint in check(words))


def test_what_a_job_reads_is_taken() -> None:
    (only,) = check(
        ["job=evaluate", "run=x", "task=ax", "task.max_eval_samples=5", "train.per_device_eval_batch_size=8"]
    )
    assert "holds no result.json" in only
