"""Scores of a linear bag-of-words model on miniglue: what can be predicted without reading.

python tests/benchmarks/miniglue_baseline.py
"""

from __future__ import annotations

from typing import Any

from peftkit.data.miniglue import TASKS, miniglue
from peftkit.metrics import score

METRICS = {
    "cola": ["matthews_correlation"],
    "mrpc": ["accuracy", "f1"],
    "qqp": ["accuracy", "f1"],
    "stsb": ["pearson", "spearman"],
}


def main() -> None:
    """Print a line a task: its metrics on validation."""
    for task in TASKS:
        if task != "ax":
            found = bag_of_words(task)
            print(f"{task:6}", "  ".join(f"{name} {100 * value:.1f}" for name, value in found.items()))


def bag_of_words(task: str) -> dict[str, float]:
    """Fit TF-IDF of words and word pairs, with a linear model, on a task's training rows; return validation scores."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    splits = miniglue(task)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2)), Ridge() if task == "stsb" else LogisticRegression(C=10, max_iter=1000)
    )
    train = splits["train"]
    model.fit([_text(row) for row in train], [row["label"] for row in train])
    scores: dict[str, float] = {}
    for name, rows in splits.items():
        if name.startswith("validation"):
            predictions = model.predict([_text(row) for row in rows])
            suffix = name.removeprefix("validation")
            found = score(METRICS.get(task, ["accuracy"]), predictions, [row["label"] for row in rows], suffix)
            scores |= {metric: entry["value"] for metric, entry in found.items()}
    return scores


def _text(row: dict[str, Any]) -> str:
    """Join the texts; the second one's words are marked, so that the model can tell whose they are."""
    first, *second = (str(value) for name, value in row.items() if name not in ("idx", "label"))
    return first + "".join(" " + " ".join(f"second_{word}" for word in text.split()) for text in second)


if __name__ == "__main__":
    main()
