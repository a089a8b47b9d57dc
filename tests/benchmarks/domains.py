"""Domain-adversarial training on the shifted data of source=offline.

    python tests/benchmarks/domains.py OUT --shift covariate --seeds 0,1,2

Trains MiniLM (all weights) on SST-2 of miniglue without one domain, and prints a table in Markdown: accuracy on that domain and
on those that were trained on, of the domain classifier, and of a logistic regression that finds the domain in the
features of the trained model. Runs that have finished are read, so that the command can be repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import peftkit
from peftkit.data.miniglue import miniglue, with_domains

UNSEEN = "forum"
OBJECTIVES: dict[str, dict[str, Any]] = {
    "mean loss": {"leave_out": UNSEEN},
    "adversarial, max_lambda 1": {"leave_out": UNSEEN, "objective": "adversarial", "max_lambda": 1.0},
    "adversarial, max_lambda 0.1": {"leave_out": UNSEEN, "objective": "adversarial", "max_lambda": 0.1},
    "adversarial, max_lambda 0.1, with unlabeled texts of the domain": {
        "target": UNSEEN, "objective": "adversarial", "max_lambda": 0.1,
    },
    "confusion, max_lambda 1": {"leave_out": UNSEEN, "objective": "confusion", "max_lambda": 1.0},
    "confusion, max_lambda 0.1": {"leave_out": UNSEEN, "objective": "confusion", "max_lambda": 0.1},
    "confusion, max_lambda 0.1, with unlabeled texts of the domain": {
        "target": UNSEEN, "objective": "confusion", "max_lambda": 0.1,
    },
}  # fmt: skip
TRAIN = {"num_train_epochs": 4, "per_device_train_batch_size": 16, "disable_tqdm": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--shift", default="covariate")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="the rows whose name begins so")
    given = parser.parse_args()
    shift, seeds = given.shift.split(","), [int(seed) for seed in given.seeds.split(",")]
    print("| objective | domain not trained on | others | worst of these | domain classifier | probe | chance |")
    print("|---|---|---|---|---|---|---|")
    for name, domains in OBJECTIVES.items():
        if not name.startswith(given.only):
            continue
        runs = [
            peftkit.finetune(
                model="minilm", method="full", task="sst2", source="offline", out=given.out, seed=seed, train=TRAIN,
                domains=domains, **{"task.shift": shift, "task.domain": "domain"},
            )
            for seed in seeds
        ]  # fmt: skip
        found = [run.record["domains"] for run in runs]
        cells = [
            text([run.scores["accuracy"] for run in runs]),
            text([each["others"]["average"]["accuracy"] for each in found]),
            text([each["others"]["worst"]["accuracy"]["value"] for each in found]),
            text([each["classifier"]["accuracy"] for each in found if "classifier" in each]),
            text([probe(run, shift) for run in runs]),
            f"{100 * chance(runs[0]):.1f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def chance(run: Any) -> float:
    """Return the share of the largest of the domains that were trained on among the validation examples."""
    return float(pd.read_parquet(run.folder / "other_domains.parquet").domain.value_counts(normalize=True).max())


def probe(run: Any, shift: list[str]) -> float:
    """Return how often the domain of a validation example that was trained on is found in the model's features."""
    train = pd.DataFrame(with_domains(miniglue("sst2"), shift, "sst2", 2)["train"])
    train, held_out = train[train.domain != UNSEEN], pd.read_parquet(run.folder / "other_domains.parquet")
    features = [peftkit.embed(list(each.sentence), run=run, **{"embed.pooling": "mean"}) for each in (train, held_out)]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float((model.fit(features[0], train.domain).predict(features[1]) == held_out.domain).mean())


def text(values: Sequence[float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in values) or "–"


if __name__ == "__main__":
    main()
