"""The recipe for Optuna in docs/how-to/launch.md: it composes, is valid, and maximizes; and Optuna runs it where it is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.commands import check
from hydra.core.config_store import ConfigStore

from peftkit.cli.compose import open_composer, plan_sweep

Overrides = Callable[..., list[str]]
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "launch.md"
# of hydra-optuna-sweeper 1.2, which registers it when it is installed
SWEEPER = {
    "_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": None},
    "direction": "minimize",
    "storage": None,
    "study_name": None,
    "n_trials": 20,
    "n_jobs": 2,
    "max_failure_rate": 0.0,
    "search_space": None,
    "params": None,
    "custom_search_space": None,
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the recipe of the documentation into the working folder."""
    (text,) = re.findall(r"```yaml\n(# Learning rate, rank.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tune_lora.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return "recipe=tune_lora"


@pytest.fixture
def sweeper() -> Iterator[None]:
    """Register the sweeper's config, which is enough to compose it."""
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="optuna", node=SWEEPER, provider="test")
    yield
    store.repo["hydra"]["sweeper"].pop("optuna.yaml")


def test_the_recipe_for_optuna_is_valid_and_its_score_is_maximized(recipe: str, sweeper: None) -> None:
    command = [recipe, "task=mrpc", "hydra.sweeper.n_trials=20"]
    assert check(command) == []
    assert any(
        "has no score for hydra/sweeper=optuna" in message
        for message in check([*command, "job=predict", "run=x", "input=y"])
    )
    with open_composer(None) as composer:
        config, sweep = composer(command), plan_sweep(command, composer)
        assert config.trial and config.method.name == "lora" and "hydra.sweeper.direction=maximize" in sweep.overrides
        assert dict(config.hydra.sweeper.params)["method.config.r"] == "choice(4, 8, 16)"


@pytest.mark.slow
def test_optuna_chooses_among_trials(recipe: str, tiny: Overrides) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'peftkit[optuna]', with optuna < 3")
    overrides = tiny(
        "bert", recipe, "task=mrpc", "search.samples=20", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"
    )
    done = subprocess.run([sys.executable, "-m", "peftkit", *overrides], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (out,) = [word.removeprefix("out=") for word in overrides if word.startswith("out=")]
    assert len(list(Path(out).rglob("trial-*/result.json"))) == 2
