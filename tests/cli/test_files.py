"""Recipes, and the models, methods and tasks of -cd DIR, by somebody else: nothing runs, leaks, or writes elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.commands import check, compose_config

from peftkit import paths
from peftkit.cli.files import file_error
from peftkit.config.checks.untrusted import read_option

SWEEP = "hydra: {mode: MULTIRUN, sweeper: {params: {%s}}}"
REFUSED_RECIPES = {  # content: what its message names
    # Hydra's settings, however they get there
    "hydra: {run: {dir: /tmp/elsewhere}}": "hydra.run",
    "hydra: {sweep: {dir: /tmp/elsewhere}}": "hydra.sweep ",
    "hydra: {output_subdir: .hydra}": "hydra.output_subdir",
    "hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}": "hydra.job",
    "hydra: {job: {chdir: true}}": "hydra.job",
    "hydra: {callbacks: {x: {_target_: os.system, command: touch marker}}}": "hydra.callbacks",
    "hydra: {launcher: {_target_: os.system}}": "hydra.launcher",
    "hydra: {launcher: {setup: [touch marker]}}": "hydra.launcher",
    "hydra: {sweeper: {_target_: subprocess.run}}": "hydra.sweeper._target_",
    "hydra: {sweeper: {storage: 'sqlite:////tmp/elsewhere.db'}}": "hydra.sweeper.storage",
    "hydra: {sweeper: {params: {seed: '0,1'}, max_batch_size: 1}}": "hydra.sweeper.max_batch_size",
    "hydra: {job_logging: {handlers: {h: {class: logging.FileHandler, filename: marker}}}}": "hydra.job_logging",
    "hydra: {hydra_logging: {formatters: {f: {(): os.system}}}}": "hydra.hydra_logging",
    "hydra: {searchpath: ['file:///tmp']}": "hydra.searchpath",
    "hydra: {mode: '${oc.env:SECRET_KEY}'}": "hydra.mode",
    "hydra: [run]": "hydra takes",
    "hydra: {sweeper: null}": "hydra takes",
    "defaults: [{}]": "'{}' is refused",
    "1: x": "1 is no key of peftkit",
    SWEEP % "hydra.launcher._target_: os.system": "'hydra.launcher._target_' is no key",
    SWEEP % "hydra/launcher: evil": "'hydra/launcher' is no key",
    SWEEP % "+hydra.job.env_set.X: 1": "is no key",
    SWEEP % "++method.config._target_: os.system": "is no key",
    SWEEP % "~train: 1": "is no key",
    SWEEP % "task@hydra.job: sst2": "is no key",
    SWEEP % "method: '../../tmp/evil'": "hydra.sweeper.params: method=",
    SWEEP % "seed: '${hydra:runtime.cwd}'": "hydra.sweeper.params: seed=",
    SWEEP % r"seed: '\${oc.env:SECRET_KEY}'": "hydra.sweeper.params: seed=",
    SWEEP % "method.config: '{_target_:os.system}'": "hydra.sweeper.params: method.config=",
    SWEEP % "train.push_to_hub: 'true,false'": "train.push_to_hub may be set on the command line only",
    SWEEP % "out: 'a,b'": "hydra.sweeper.params: out",
    SWEEP % "generate.base_url: 'http://evil'": "hydra.sweeper.params: generate.base_url",
    SWEEP % "allow_code: '[os],[sys]'": "allow_code",
    "defaults: [override /hydra/launcher: evil]": "hydra/launcher: evil is refused",
    "defaults: [override /hydra/launcher: ray_aws]": "hydra/launcher: ray_aws is refused; did you mean",
    "defaults: [override hydra/launcher: basic]": "use override /model",
    "defaults: [override /hydra/job_logging: default]": "'override /hydra/job_logging' is refused",
    "defaults: [hydra/output: default]": "'hydra/output' is refused",
    "defaults: [/hydra/launcher@hydra.launcher: evil]": "is refused",
    "defaults: ['/task@hydra.job: sst2']": "is no recipe",
    "defaults: [override /method: ../../tmp/evil]": "is no name",
    "defaults: [override /method: '${oc.env:SECRET_KEY}']": "is no name",
    "defaults: [../../tmp/evil]": "is no recipe",
    "defaults: [/tmp/evil]": "is no recipe",
    "defaults: [optional override /method: lora]": "is refused",
    "defaults: [[a]]": "is refused",
    # code, publication, keys, other folders
    "allow_code: [evil]": "allow_code may be set",
    "model: {trust_remote_code: true}": "model.trust_remote_code",
    "method: {config: {tokenizer_kwargs: {trust_remote_code: true}}}": "tokenizer_kwargs",
    "method: {config: {megatron_config: {a: 1}, megatron_core: evil}}": "method.config.megatron_config",
    "method: {config: {target_modules: [{_args_: [a]}]}}": "_args_",
    "train: {push_to_hub: true}": "train.push_to_hub",
    "train: {hub_model_id: evil/copy}": "train.hub_model_id",
    "train: {trackio_space_id: evil/copy}": "train.trackio_space_id",
    "train: {output_dir: /tmp/elsewhere}": "train.output_dir",
    "train: {deepspeed: {tensorboard: {output_path: /tmp/elsewhere}}}": "train.deepspeed",
    "train: {report_to: wandb}": "train.report_to=wandb publishes",
    "train: {report_to: [none, all]}": "train.report_to=all publishes",
    "generate: {key_env: AWS_SECRET_ACCESS_KEY}": "generate.key_env",
    "generate: {request: {extra: [{trust_remote_code: true}]}}": "trust_remote_code",
    "out: /tmp/elsewhere": "out=/tmp/elsewhere is outside",
    "out: ~/elsewhere": "out=~/elsewhere is outside",
    "out: outputs/../../elsewhere": "is outside",
    "out: '${oc.env:HOME}'": "is outside",
    "runs: [/tmp/a, /tmp/b]": "runs=/tmp/a is outside",
    "input: /tmp/elsewhere.csv": "input=/tmp/elsewhere.csv is outside",  # predictions are written beside it
    "output: train.csv": "output may be set",
    "repo: evil/copy": "repo may be set",
    "push: {private: false}": "push may be set",
    # interpolations
    "out: x\ntask: {dataset: '${oc.env:SECRET_KEY}'}": "task.dataset: ${oc.env:SECRET_KEY} is refused",
    "task: {dataset: 'a-${ oc.env : DATABASE_URL , none }'}": "task.dataset",
    "task: {dataset: '${oc.decode:${oc.env:SECRET_KEY}}'}": "task.dataset",
    "task: {dataset: '${oc.select:task.name,${oc.env:SECRET_KEY}}'}": "${oc.env:SECRET_KEY} is refused",
    "task: {dataset: '${oc.env:${task.name}}'}": "task.dataset",
    "task: {dataset: '${${task.name}:SECRET_KEY}'}": "task.dataset",
    "task: {dataset: '${oc.create:x}'}": "task.dataset",
    "task: {dataset: '${custom:x}'}": "task.dataset",
    "task: {dataset: '${hydra:runtime.cwd}'}": "task.dataset",
    "task: {dataset: '${hydra.job.name}'}": "task.dataset",
    "task: {dataset: '${..hydra.job.name}'}": "task.dataset",
    "task: {dataset: '${oc.select:hydra.job.name}'}": "task.dataset",
    r"task: {prompt: '\${oc.env:SECRET_KEY}'}": "task.prompt",
    "task: {labels: [a, '${oc.env:SECRET_KEY}']}": "task.labels",
    "generate: {request: {a: {b: ['${oc.env:SECRET_KEY}']}}}": "generate.request.a.b",
    # YAML
    "a: !!python/object/apply:os.system [touch marker]": "line 1: the tag !!python/object/apply:os.system is refused",
    "a: !!python/object/apply:pathlib.Path [x]": "the tag !!python",
    "a: !!binary aGk=": "the tag !!binary is refused",
    "a: !env SECRET_KEY": "the tag !env is refused",
    "a: &a [*a]": "*a contains itself",
    "a: " + "[" * 3000 + "]" * 3000: "more than 40 levels",
    "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{n}: &{n} [{','.join(9 * [f'*{m}'])}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)): "or 20,000 values",
    "# " + "x" * (1 << 20): "more than 1,048,576",
    "seed: 1\nseed: 2": "line 2: found duplicate key seed",
    "- a": "contains no keys",
    "seed: [": "line 2",
    "# @package hydra\nrun: {dir: /tmp/elsewhere}": "'# @package hydra' is refused",
}  # fmt: skip


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")
    return folder


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SECRET_KEY", "planted-secret-0123")
    monkeypatch.setenv("DATABASE_URL", "planted-secret-0123")
    return "planted-secret-0123"


@pytest.mark.parametrize(("text", "named"), REFUSED_RECIPES.items(), ids=lambda text: text[:60])
def test_a_recipe_by_somebody_else_is_refused(text: str, named: str, tmp_path: Path, secret: str) -> None:
    write(tmp_path / "recipes", "mine", text)
    message = file_error("recipe", "mine", tmp_path) or ""
    assert named in message and "\n" not in message and secret not in message
    assert message.startswith(("recipe=mine: ", f"{tmp_path}/recipes/mine.yaml"))


@pytest.mark.parametrize("folder", ["recipes", "recipe"])
def test_a_recipe_is_checked_wherever_it_is(folder: str, tmp_path: Path) -> None:
    write(tmp_path / folder, "mine", "hydra: {run: {dir: /tmp/elsewhere}}")
    (message,) = check(["recipe=mine"], tmp_path)
    assert message.startswith("recipe=mine: hydra.run is refused")


def test_a_recipe_on_which_another_builds_is_checked_too(tmp_path: Path) -> None:
    write(tmp_path / "recipes", "base", "hydra: {run: {dir: /tmp/elsewhere}}")
    write(tmp_path / "recipes", "top", "defaults: [base]\nseed: 1")
    (message,) = check(["recipe=top"], tmp_path)
    assert message.startswith("recipe=base: hydra.run is refused")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("defaults: [lora]\nconfig: {tokenizer_kwargs: {trust_remote_code: true}}", "method.config.tokenizer_kwargs"),
        ("defaults: [/hydra/launcher: basic]", "'/hydra/launcher' is refused"),
        ("defaults: [lora]\npaper: '${oc.env:SECRET_KEY}'", "method.paper: ${oc.env:SECRET_KEY} is refused"),
        ("# @package _global_\nhydra: {run: {dir: x}}", "'# @package _global_' is refused"),
    ],
)
@pytest.mark.parametrize("chosen", ["method=mine", "recipe=uses_mine"])
def test_a_method_by_somebody_else_is_refused(text: str, named: str, chosen: str, tmp_path: Path) -> None:
    write(tmp_path / "method", "mine", text)
    write(tmp_path / "recipes", "uses_mine", "defaults: [override /method: mine]")
    (message,) = check([chosen], tmp_path)
    assert message.startswith("method=mine: ") and named in message


@pytest.mark.parametrize("file", ["hydra/launcher/evil", "hydra/launcher/basic", "config"])
def test_hydra_does_not_search_the_folder_of_cd(file: str, tmp_path: Path) -> None:
    write(tmp_path, file, "# @package _global_\nhydra: {launcher: {_target_: os.system}}")
    messages = check([f"hydra/launcher={file.rpartition('/')[2]}"], tmp_path)
    assert messages == [] if "basic" in file else messages[0].startswith("unknown hydra/launcher=")


def test_hydra_searches_no_folder_that_is_typed() -> None:
    (message,) = check(["hydra.searchpath=[/tmp]"])
    assert message == "hydra.searchpath=[/tmp]: Hydra searches no other folders; use -cd DIR"


def test_an_option_of_peftkit_is_not_replaced_in_silence(tmp_path: Path) -> None:
    write(tmp_path / "method", "lora", "name: lora")
    (message,) = check(["method=lora"], tmp_path)
    assert message.endswith("has the name of an option of peftkit; rename the file and use method=NEW_NAME")


def test_what_is_no_file_is_refused_where_it_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    os.mkfifo(tmp_path / "recipes" / "fifo.yaml")
    (tmp_path / "recipes" / "link.yaml").symlink_to(tmp_path / "nowhere")
    assert check(["seed=1"], tmp_path) == []
    assert "is not a regular file" in check(["recipe=fifo"], tmp_path)[0]
    assert "link.yaml: No such file" in check(["recipe=link"], tmp_path)[0]


def test_recipes_that_include_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "recipes", "a", "defaults: [b]")
    write(tmp_path / "recipes", "b", "defaults: [a]")
    assert len(check(["recipe=a"], tmp_path)) == 1


def test_a_sweep_is_bounded(tmp_path: Path) -> None:
    write(tmp_path / "recipes", "mine", SWEEP % "seed: 'range(0,1000000000000)'")
    assert check(["recipe=mine"], tmp_path) == [
        "a sweep of more than 5,000 runs; sweep fewer values, such as seed=0,1,2"
    ]


def test_a_task_of_cd_to_decontaminate_with_is_checked(tmp_path: Path, secret: str) -> None:
    from peftkit.config import UserError
    from peftkit.pipeline.generation import load_task_config

    write(tmp_path / "task", "mine", "defaults: [classification]\ndataset: '${oc.env:SECRET_KEY}'")
    write(tmp_path / "task", "loop", "defaults: [loop]\nname: loop")
    with pytest.raises(UserError, match=r"task.dataset: \$\{oc.env:SECRET_KEY\} is refused"):
        load_task_config("mine", str(tmp_path))
    with pytest.raises(UserError, match="lead back to itself"):
        load_task_config("loop", str(tmp_path))


def test_everyday_recipes_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "method", "lora16", "defaults: [lora]\nname: lora16\nconfig: {r: 16}")
    write(
        tmp_path / "task",
        "stars",
        "# @package task\ndefaults: [classification]\nname: stars\nlabel: stars\ntext: [review]",
    )
    text = """
        # @package _global_
        defaults:
          - lora_glue
          - _self_
          - override /method: lora16
          - override /task: stars
          - override /hydra/launcher: basic
        out: outputs/study
        task: {dataset: "${oc.env:HOME}/reviews.csv", subset: "${task.name}"}
        train: {report_to: [none], run_name: "${task.name}"}
        hydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1", train.learning_rate: "1e-3,3e-3", task: stars}}}
    """  # fmt: skip
    write(tmp_path / "recipe", "mine", "\n".join(line[8:] for line in text.splitlines()))
    (tmp_path / "reviews.csv").write_text("review,stars\na,b\n")
    assert check(["recipe=mine"], tmp_path) == []
    cfg = compose_config(["recipe=mine"], tmp_path)
    assert (cfg.method.config.r, cfg.task.name, cfg.train.num_train_epochs) == (16, "stars", 4)
    assert cfg.task.dataset == f"{tmp_path}/reviews.csv"


@pytest.mark.parametrize("group", ["recipe", "method", "task", "model"])
def test_every_shipped_file_keeps_the_rules_of_others(group: str) -> None:
    files = paths.recipes() if group == "recipe" else paths.group_files(group)
    for name, file in files.items():
        assert read_option(group, name, file, files)
