"""SmolLM2 without training on RTE and SST-2: its scores against a hand-written loop, and the effect of the prompt.

python tests/benchmarks/smollm2_prompting.py GLUE_FOLDER [OUT] [TASK ...]        # outputs/smollm2 rte sst2

GLUE_FOLDER holds rte/ and sst2/ as parquet files. Prints the tables of docs/results/smollm2.md; finished runs in OUT
are not repeated. All runs are in fp32, and no prompt is truncated.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

YES_NO, TRUE_FALSE = {"entailment": "Yes", "not_entailment": "No"}, {"entailment": "True", "not_entailment": "False"}
SENTIMENT = {"negative": "negative", "positive": "positive"}
# four prompts a task with their verbalizers; the first is peftkit's own
PROMPTS: dict[str, dict[str, dict[str, str] | None]] = {
    "rte": {
        "{sentence1}\nquestion: {sentence2} True or False?\nanswer:": None,
        "{sentence1}\nQuestion: {sentence2} Yes or No?\nAnswer:": YES_NO,
        "Premise: {sentence1}\nHypothesis: {sentence2}\nDoes the hypothesis follow from the premise? Answer:": YES_NO,
        "Text: {sentence1}\nClaim: {sentence2}\nThe claim is": {"entailment": "true", "not_entailment": "false"},
    },
    "sst2": {
        "{sentence} It was": None,
        "Review: {sentence}\nSentiment:": SENTIMENT,
        "Is this review negative or positive?\n{sentence}\nAnswer:": SENTIMENT,
        "{sentence}\nAll in all, the film is": {"negative": "bad", "positive": "good"},
    },
}
WORDS = {"rte": ["True", "False"], "sst2": ["terrible", "great"]}  # of the first prompt, by label id
EXAMPLES = {"rte": 100, "sst2": 200}  # of a validation split
SHOTS, LONGEST = 4, 200  # few-shot examples, and characters of one


def main(glue: str, out: str = "outputs/smollm2", *tasks: str) -> None:
    import peftkit

    settings: dict[str, Any] = {"model": "smollm2", "source": "offline", "out": out, "train": {"bf16": False}}
    settings |= {"task.max_length": 1024, "task.max_train_samples": 16}
    print("| task | method | prompt | accuracy |\n|---|---|---|---|")
    for task in tasks or PROMPTS:
        settings["task.max_eval_samples"] = EXAMPLES[task]
        few = write_examples(Path(glue) / task, Path(out) / "examples" / task)
        spread: dict[str, list[float]] = {"zero-shot": [], "few-shot, three orders": []}
        for number, (prompt, words) in enumerate(PROMPTS[task].items()):
            asked: dict[str, Any] = {} if words is None else {"task.prompt": prompt, "task.verbalizer": words}
            runs = {"zero-shot": [peftkit.finetune(method="zero_shot", task=task, data_root=glue, **settings, **asked)]}
            if not number:
                found = difference(runs["zero-shot"][0], task)
                print(f"{task}: largest difference from the hand-written loop {found:.1e} nats", flush=True)
                runs["few-shot, three orders"] = [
                    peftkit.finetune(method="few_shot", task=task, data_root=str(few), seed=seed, **settings)
                    for seed in range(3)
                ]
            for name, each in runs.items():
                accuracies = [100 * run.scores["accuracy"] for run in each]
                spread[name] += accuracies
                cells = ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
                print(f"| {task} | {name} | `{prompt!r}` | {cells} |", flush=True)
        for name, each in spread.items():
            print(f"{task}, {name}: {min(each):.1f} to {max(each):.1f}, standard deviation {stdev(each):.1f}")


def write_examples(source: Path, target: Path) -> Path:
    """Write a GLUE folder whose training split is four short examples, so that a seed changes only their order."""
    train = pq.read_table(source / "train.parquet").to_pylist()
    short = [row for row in train if sum(len(each) for each in row.values() if isinstance(each, str)) < LONGEST]
    chosen = [[row for row in short if row["label"] == label][: SHOTS // 2] for label in (0, 1)]
    target.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row for rows in chosen for row in rows]), target / "train.parquet")
    pq.write_table(pq.read_table(source / "validation.parquet"), target / "validation.parquet")
    return target.parent


def difference(run: Any, task: str) -> float:
    """Return the largest difference of a run's scores from those of the hand-written loop, over its examples."""
    from helpers.label_scores import label_scores

    from peftkit.pipeline.artifacts import find_model

    table = run.predictions()
    texts = {row["idx"]: row for row in pq.read_table(f"{run.config.data_root}/{task}/validation.parquet").to_pylist()}
    prompts = []
    for number in table["id"]:
        row = texts[number]
        if task == "rte":
            prompts.append(row["sentence1"] + "\nquestion: " + row["sentence2"] + " True or False?\nanswer:")
        else:
            prompts.append(row["sentence"].strip() + " It was")
    checkpoint = find_model(run.config.model, "offline").folder
    expected = label_scores(checkpoint, prompts, WORDS[task])
    return float(np.abs(np.stack(table["scores"].tolist()) - expected).max())


if __name__ == "__main__":
    main(*sys.argv[1:])
