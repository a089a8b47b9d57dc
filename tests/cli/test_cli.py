"""The command line answers fast, refuses with one message for each mistake, and sweeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import check, compose_config, expand_sweep

from peftkit import paths
from peftkit.cli.compose import open_composer
from peftkit.cli.files import options_of
from peftkit.cli.help import help_text
from peftkit.config import JOBS
from peftkit.config.suggestions import RENAMED


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "peftkit", *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    "overrides",
    [
        ["--help"],
        ["job=predict", "--help"],
        ["method=lora", "--help"],
        ["--cfg", "job"],
        ["recipe=lora_gleu"],
        ["train.lerning_rate=1"],
    ],
)
def test_light_answers_import_no_torch(overrides: list[str]) -> None:
    code = (
        "import sys; from peftkit.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *overrides], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_overview_fits_a_screen_and_lists_every_recipe(arguments: list[str]) -> None:
    text = run(*arguments).stdout
    assert len(text.splitlines()) <= 46 and max(map(len, text.splitlines())) <= 120
    for name in paths.recipes():
        assert f"  {name} " in text or (name.startswith("claims/") and name.removeprefix("claims/") in text)


@pytest.mark.parametrize(
    ("arguments", "shown", "hidden"),
    [
        (["job=predict"], ["job=predict:", "input=null", "seed=0"], ["extend.", "search."]),
        (["job=extend"], ["extend.budget=500", "model=NAME"], ["train.", "embed."]),
        (
            ["job=finetune"],
            ["train.learning_rate", "search.samples=500", "claim=null", "task=NAME"],
            ["embed.", "run="],
        ),
        (["method=lora"], ["peft.LoraConfig", "r=8", "Hu et al. 2022", "mergeable", "use_rslora"], ["KEYS"]),
        (["method=bitfit"], ["not on t5", "peftkit.methods.BitFit"], []),
        (["task=sst2"], ["Socher", "text: [sentence]", "max_length: 128"], []),
        (["model=t5", "recipe=lora_glue"], ["checkpoint: google-t5/t5-small", "recipe=lora_glue:"], []),
        (["method"], ["lora ", "ia3 "], []),
        (["job"], sorted(JOBS), []),
        (["keys"], ["generate.blacklist", "early_stopping.holdout=0.1"], []),
    ],
)
def test_each_choice_has_a_page(arguments: list[str], shown: list[str], hidden: list[str]) -> None:
    text = help_text(arguments)
    assert [part for part in shown if part not in text] == []
    assert [part for part in hidden if part in text] == []


def test_every_job_and_option_has_a_page() -> None:
    for group in ("model", "method", "task", "recipe"):
        for name in options_of(group):
            assert help_text([f"{group}={name}"]).startswith(f"{group}={name}: ")
    for name, job in JOBS.items():
        assert job.summary in help_text([f"job={name}"])


def test_the_folder_of_cd_is_listed(tmp_path: Path) -> None:
    for folder, name in (("method", "lora16"), ("recipes", "mine")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.yaml").write_text("# One of my own.\n")
    done = run("-cd", str(tmp_path), "--help")
    assert done.returncode == 0
    assert f"METHODS OF {tmp_path}" in done.stdout and "lora16  One of my own." in done.stdout
    assert f"RECIPES OF {tmp_path}" in done.stdout and "mine  One of my own." in done.stdout
    assert "r: 8" not in run("-cd", str(tmp_path), "recipe=mine", "--help").stdout


def test_the_page_of_an_unknown_option_names_the_nearest() -> None:
    done = run("method=lorra", "--help")
    assert done.returncode == 2
    assert done.stderr == "peftkit: unknown method=lorra; did you mean method=lora?\n"


def test_renamed_keys_are_refused_with_the_new_name() -> None:
    typed = [old if "=" in old else f"{old}=3" for old in RENAMED]
    assert sorted(check(typed)) == sorted(f"{old} was renamed; use {new}" for old, new in RENAMED.items())


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_renamed_keys_of_a_recipe_are_refused_with_the_new_name(old: str, new: str, tmp_path: Path) -> None:
    key, _, value = old.partition("=")
    (tmp_path / "recipes").mkdir()
    section, _, name = key.rpartition(".")
    line = f"{section}: {{{name}: 3}}" if section else f"{key}: {value}"
    (tmp_path / "recipes" / "old.yaml").write_text(f"{line}\n")
    assert f"{old} was renamed; use {new}" in check(["recipe=old"], tmp_path)[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=[cola,rte]", "task=[cola,rte]: expected one task; use tasks=[cola,rte], or -m task=cola,rte"),
        ("model=[bert]", "model=[bert]: expected one model; use model=bert"),
        ("method=[lora, ia3]", "method=[lora, ia3]: expected one method; use -m method=lora,ia3"),
    ],
)
def test_a_list_of_options_is_refused(override: str, message: str) -> None:
    assert check([override], multirun=False) == check([override]) == [message]


def test_a_recipe_that_lists_tasks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "two.yaml").write_text("defaults:\n  - override /task: [cola, rte]\n")
    (message,) = check(["recipe=two"], tmp_path)
    assert message.startswith("recipe=two: expected one task; to sweep, use hydra: {mode: MULTIRUN, sweeper:")


def test_a_typo_exits_with_2_and_no_traceback() -> None:
    done = run("methd=lora", "method=lorra", "train.lerning_rate=1", "method.config.rr=2")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for right in ("method?", "method=lora?", "train.learning_rate?"):
        assert f"did you mean {right}" in done.stderr


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("recipe=lora_gleu", "did you mean recipe=lora_glue?"),
        ("sed=3", "did you mean seed?"),
        ("model.checkpont=x", "did you mean model.checkpoint?"),
        ("train.num_train_epoch=3", "did you mean train.num_train_epochs?"),
        ("method.config.lora_alfa=3", "did you mean method.config.lora_alpha?"),
        ("train.lr_scheduler_type=linaer", "one of linear"),
        ("method.config.r=big", "method.config.r=big: expected an int"),
        ("task.max_length=x", "expected an int"),
        ("method.traits=45", "method.traits=45: expected a mapping; use method.traits={mergeable: false}"),
        ("seed=-1", "expected 0 or more"),
        ("train.learning_rate=abc", "train.learning_rate=abc: expected a float"),
        (
            "task.metrics=[f2]",
            "task.metrics=[f2]: unknown metric of task.kind=classification; did you mean task.metrics=[f1]?",
        ),
        ("source=net", "use one of auto, hub, offline"),
        ("train.output_dir=x", "use out="),
        ("method.config._target_=os.system", "only classes of peft and peftkit are allowed"),
        ("job=predict", "needs a run folder"),
        ("data_root=/nowhere", "data_root=/nowhere: no such folder"),
        ("a b", "cannot parse"),
        ("train.report_to=tensorbord", "did you mean train.report_to=tensorboard?"),
        ("train.report_to=neptune", "needs the package neptune"),
        ("model.checkpoint=./nowhere", "no such folder"),
        ("search.lr_multipliers=3", "use search.lr_multipliers=[3]"),
        ("search=3", "use search.lr_multipliers=[3]"),
    ],
)
def test_each_mistake_has_its_message(override: str, answer: str) -> None:
    assert any(answer in message for message in check([override]))


@pytest.mark.parametrize("is_sweep", [True, False])
@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("search=[0.3,1,3]", "search.lr_multipliers=[0.3,1,3]"),
        ("search=0.3,1", "search.lr_multipliers=[0.3,1]"),
        ("search.lr_multipliers=0.3,1", "search.lr_multipliers=[0.3,1]"),
        ("task.metrics=accuracy,f1", "task.metrics=[accuracy,f1]"),
    ],
)
def test_a_list_without_brackets_has_one_message(override: str, right: str, is_sweep: bool) -> None:
    (message,) = check([override], multirun=is_sweep)
    assert message.startswith(f"{override}: ") and f"; use {right}" in message


def test_a_sweep_over_lists_is_one() -> None:
    assert check(["search.lr_multipliers=[0.3,1],[1,3]", "task.metrics=[accuracy],[f1]"]) == []


def test_a_list_in_place_of_a_section_in_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("search: [0.3, 1]\n")
    (message,) = check(["recipe=mine"], tmp_path)
    assert message.endswith("use, for example, search: {lr_multipliers: [0.3, 1, 3]}")


def test_upstream_options_need_no_plus() -> None:
    assert check(["train.adam_beta2=0.98", "method.config.use_rslora=true"]) == []
    assert compose_config(["train.adam_beta2=0.98"]).train.adam_beta2 == 0.98


def test_a_combination_that_does_not_work_is_refused_with_an_alternative() -> None:
    (message,) = check(["model=t5", "method=linear_probe"])
    assert "method=ln_tuning or method=lora" in message


def test_recipe_sweeps_all_nine_tasks_and_the_command_line_narrows_it() -> None:
    assert len(expand_sweep(["recipe=lora_glue"])) == 9
    assert expand_sweep(["recipe=lora_glue", "task=sst2"]) == [["recipe=lora_glue", "task=sst2"]]
    assert len(expand_sweep(["recipe=lora_glue", "task=sst2,rte", "seed=0,1"])) == 4
    assert len(expand_sweep(["recipe=claims/small_data", "task.max_train_samples=500", "method=full,lora"])) == 6


def test_the_last_values_of_a_key_count_in_a_sweep() -> None:
    assert expand_sweep(["seed=0,1", "method=lora", "seed=2"]) == [["seed=2", "method=lora"]]
    assert expand_sweep(["seed=0,1", "seed=3,4"]) == [["seed=3"], ["seed=4"]]
    assert expand_sweep(["seed=0", "seed=3,4"]) == [["seed=3"], ["seed=4"]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=stsb"], "spreads probability over classes, and task=stsb has numbers; drop it"),
        (["task=stsb", "model=gpt2"], "spreads probability over classes"),
        (["task=stsb", "model=t5"], None),
        (["task=sst2"], None),
        (["task=sst2", "method=adalora"], "would drop the regularizer of method=adalora; use method=lora"),
        (["task=question_answering", "task.dataset=config.json"], "no effect on the starts and ends of answers"),
        (
            ["task=causal_lm", "task.dataset=config.json", "task.text=[a]", "model=gpt2", "method=peft",
             "method.config._target_=peft.PromptTuningConfig", "+method.config.num_virtual_tokens=4"],
            "whose virtual tokens have no labels; use method=prompt",
        ),
    ],
)  # fmt: skip
def test_label_smoothing_is_refused_where_it_would_be_wrong(overrides: list[str], message: str | None) -> None:
    found = [each for each in check(["train.label_smoothing_factor=0.1", *overrides]) if "label_smoothing" in each]
    assert len(found) == (message is not None) and all(str(message) in each for each in found), found


def test_a_sweep_without_m_is_refused() -> None:
    assert any("add -m" in message for message in check(["method=lora,ia3"], multirun=False))


@pytest.mark.parametrize("name", sorted(paths.recipes()))
def test_every_shipped_recipe_is_valid(name: str, tmp_path: Path) -> None:
    columns = "text,label,query,document,prompt,chosen,rejected,instruction,output"
    (tmp_path / "own.csv").write_text(f"{columns}\n")
    takes_data = name in ("own_data", "contrastive", "sft_self_instruct", "dpo")
    more = [f"task.dataset={tmp_path}/own.csv"] if takes_data else []
    more += ["task.text=[text]"] if name == "own_data" else []
    more += ["extend.terms=pyproject.toml"] if name.startswith("extend_") else []
    more += ["task.dataset=tests"] if name.startswith("adapt_") else []
    more += (
        ["task=mrpc,stsb"] if name == "glue_leaderboard" else []
    )  # all that its tasks differ in; each takes a second
    assert check([f"recipe={name}", *more]) == []


@pytest.mark.parametrize("group", ["model", "method", "task"])
def test_every_option_composes(group: str) -> None:
    with open_composer(None) as composer:
        for option in options_of(group):
            assert composer([f"{group}={option}"])[group]["name"]


def test_recipes_of_the_working_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("# Mine.\ndefaults:\n  - override /task: rte\n")
    done = run("recipe=mine", "--cfg", "job", cwd=tmp_path)
    assert "name: rte" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipes"]


def test_own_methods_and_recipes_come_with_cd(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "lora16.yaml").write_text((paths.conf_folder() / "method" / "lora.yaml").read_text())
    done = run("-cd", str(tmp_path), "method=lora16", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "peft.LoraConfig" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["job=predict", "run=x", "input=a text", "method=ia3"], "job=predict ignores method=ia3"),
        (["job=predict", "run=x", "input=a text", "train.seed=1"], "job=predict ignores train.seed=1"),
        (["job=leaderboard", "task=mrpc"], "it shows every run below out="),
        (["job=evaluate", "run=x", "seed=3"], "job=evaluate ignores seed=3"),
        (["job=predict", "run=x", "input=notes.txt"], "input=notes.txt: expected a file that ends in .csv"),
        (["job=merge", "run=x", "output=pyproject.toml"], "job=merge writes a folder"),
    ],
)
def test_what_a_job_would_ignore_is_refused(overrides: list[str], message: str) -> None:
    assert any(message in found for found in check(overrides))


def test_a_key_of_another_job_has_one_message() -> None:
    assert check(["job=runs", "workers=2"]) == [
        "workers= is not for job=runs, only for job=finetune, job=plan, job=fetch; drop it"
    ]


def test_keys_that_a_job_reads_are_accepted() -> None:
    (only,) = check(
        ["job=evaluate", "run=x", "task=ax", "task.max_eval_samples=5", "train.per_device_eval_batch_size=8"]
    )
    assert "contains no result.json" in only
