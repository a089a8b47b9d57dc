"""The grids of a search: equally many trials for every method, and grids that go on where the best value is at an end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.commands import check, choose

from peftkit.config import RunConfig
from peftkit.config.search_space import Candidate, candidates, extended_grids, halving_rounds

GRID = ("search.learning_rates=[1e-4,1e-3]", "search.config.r=[4,8]", "search.config.lora_dropout=[0.0,0.1]")


def run(*overrides: str) -> RunConfig:
    return choose(["task=mrpc", "source=offline", *overrides])[0]


def test_a_grid_is_the_product_of_its_values() -> None:
    found = candidates(run("method=lora", *GRID))
    assert len(found) == 8
    assert {(each.learning_rate, each.config["r"], each.config["lora_dropout"]) for each in found} == {
        (rate, r, dropout) for rate in (1e-4, 1e-3) for r in (4, 8) for dropout in (0.0, 0.1)
    }


@pytest.mark.parametrize(
    ("method", "lacks"), [("ia3", 2), ("full", 2), ("adapter", 2), ("boft", 2), ("vera", 1), ("dora", 0), ("qlora", 0)]
)
def test_every_method_gets_as_many_trials(method: str, lacks: int) -> None:
    found = candidates(run(f"method={method}", "source=offline", *GRID))
    assert len(found) == len(set(map(str, found))) == 8
    assert len({each.learning_rate for each in found}) == 2 * 2**lacks
    assert (min(each.learning_rate for each in found), max(each.learning_rate for each in found)) == (1e-4, 1e-3)


def test_a_single_rate_spreads_where_rates_replace_other_settings() -> None:
    found = candidates(run("method=ia3", "search.config.r=[4,8,16]", "train.learning_rate=3e-3"))
    assert [each.learning_rate for each in found] == [0.001, 0.003, 0.009]
    assert [each.learning_rate for each in candidates(run("method=lora", "search.config.r=[4,8]"))] == [1e-3, 1e-3]


@pytest.mark.parametrize(
    ("overrides", "best", "extended"),
    [
        (["search.lr_multipliers=[0.3,1,3]"], Candidate(3e-3), {"search.lr_multipliers": [0.3, 1, 3, 9]}),
        (["search.lr_multipliers=[0.3,1,3]"], Candidate(1e-3), {}),
        (["search.learning_rates=[1e-3,1e-4]"], Candidate(1e-4), {"search.learning_rates": [1e-5, 1e-4, 1e-3]}),
        (["search.learning_rates=[1e-3]"], Candidate(1e-3), {}),
        (["search.config.r=[4,8,16]"], Candidate(1e-3, {"r": 16}), {"search.config.r": [4, 8, 16, 32]}),
        (["search.config.r=[1,2]"], Candidate(1e-3, {"r": 1}), {}),  # no lower rank
        (["search.config.lora_dropout=[0.0,0.1]"], Candidate(1e-3, {"lora_dropout": 0.0}), {}),
        (
            ["search.config.lora_dropout=[0.0,0.1]"],
            Candidate(1e-3, {"lora_dropout": 0.1}),
            {"search.config.lora_dropout": [0.0, 0.1, 0.2]},
        ),
        (["search.config.lora_dropout=[0.1,0.5]"], Candidate(1e-3, {"lora_dropout": 0.5}), {}),  # below 1
        (["search.config.use_rslora=[true,false]"], Candidate(1e-3, {"use_rslora": True}), {}),
    ],
)
def test_a_grid_goes_on_where_its_best_value_is_at_an_end(
    overrides: list[str], best: Candidate, extended: dict[str, list]
) -> None:
    assert extended_grids(run("method=lora", *overrides), best) == extended


def test_rates_that_replace_a_setting_extend_the_rates() -> None:
    found = extended_grids(run("method=ia3", *GRID), Candidate(1e-3))
    assert found == {"search.learning_rates": [1e-4, 1e-3, 1e-2]}


@pytest.mark.parametrize(("trials", "factor"), [(9, 3), (27, 3), (8, 2), (3, 3), (2, 2)])
def test_the_rounds_of_halving_are_those_of_scikit_learn(trials: int, factor: int) -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    largest = 2 * factor ** round(math.log(trials, factor))
    upstream = HalvingGridSearchCV(
        DummyClassifier(strategy="uniform"), {"random_state": list(range(trials))}, factor=factor, cv=2, refit=False,
        min_resources=2, max_resources=largest,
    )  # fmt: skip
    upstream.fit(np.zeros((largest, 1)), np.arange(largest) % 2)
    found = [(count, round(share * largest)) for count, share in halving_rounds(trials, factor)]
    assert [*found, (1, largest)] == [*zip(upstream.n_candidates_, upstream.n_resources_, strict=True)]


def test_halving_goes_on_until_one_candidate_is_left() -> None:
    assert halving_rounds(5, 2) == [(5, 0.125), (3, 0.25), (2, 0.5)]
    assert halving_rounds(4, 3) == [(4, 1 / 9), (2, 1 / 3)]
    assert halving_rounds(4, None) == [(4, 1.0)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.config.r=8"], "expected a list of values; use search.config.r=[8]"),
        (["search.config.r=[8,8]"], "search.config.r=[8, 8] has a value twice; use search.config.r=[8]"),
        (["search.config.r=[0,8]"], "search.config.r: 0 is not a number above 0; use search.config.r=[8]"),
        (["search.config.r=[a,8]"], "search.config.r: a is not an int; use search.config.r=[8]"),
        (["search.config.lora_dropout=[2.0]"], "2.0 is not a number of 0 or more, below 1; drop it"),
        (["search.config.rr=[4]"], "search.config.rr: no method has this option; did you mean search.config.r?"),
        (["search.config._target_=[peft.LoraConfig]"], "is refused: only classes of peft and peftkit are allowed"),
        (["search.learning_rates=[1e-3]", "search.lr_multipliers=[1,3]"], "search.learning_rates replaces"),
        (["search.halving_factor=3"], "has no candidates to choose from; use search.lr_multipliers=[0.3,1,3]"),
        (["search.halving_factor=1", "search.lr_multipliers=[1,3]"], "expected 2 or more; use search.halving_factor=3"),
        (["search.learning_rates=[1e-3,1e-3]"], "expected different numbers above 0"),
        (["trial=true", "search.config.r=[4,8]"], "searches none; drop it, or drop search.config.r"),
        (["method=ia3", "method.loraplus_lr_ratio=16"], "method.loraplus_lr_ratio is not for this method"),
        (["method.loraplus_lr_ratio=0.5"], "expected 1 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_refused(overrides: list[str], message: str) -> None:
    (found,) = check(["task=mrpc", "method=lora", "source=offline", *overrides])
    assert message in found


def test_the_class_of_a_method_without_matrices_takes_no_second_rate() -> None:
    other = ["method=lora", "method.config={_target_: peft.IA3Config}", "method.loraplus_lr_ratio=16"]
    assert any("has no matrices A and B of LoRA" in message for message in check(["task=mrpc", *other]))
