"""SmolLM2 tuned on Self-Instruct's seed tasks: with their answers, with shuffled answers, and on preferences.

python tests/benchmarks/smollm2_tuning.py SEED_TASKS [OUT] [sft|dpo ...]         # outputs/smollm2 sft dpo

SEED_TASKS is seed_tasks.jsonl of Self-Instruct. Every fifth task is held out, with its own answer. The shuffled answers
are a permutation of the training answers; the rejected answer of a preference is that of another task. Prints the
tables of docs/results/smollm2.md; finished runs in OUT are not repeated.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SEEDS = range(3)


def main(seed_tasks: str, out: str = "outputs/smollm2", *parts: str) -> None:
    settings: dict[str, Any] = {"model": "smollm2", "source": "offline", "out": out}
    settings |= {"task.max_length": 128, "task.max_target_length": 64}
    write_data(Path(seed_tasks), Path(out) / "data")
    for part in parts or ("sft", "dpo"):
        {"sft": instructions, "dpo": preferences}[part](Path(out) / "data", settings)


def write_data(source: Path, target: Path) -> None:
    """Write folders answers, shuffled and preferences, each with a training and a validation file."""
    tasks = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    rows: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for number, task in enumerate(tasks):
        (instance,) = task["instances"]
        prompt = "\n\n".join(filter(None, (task["instruction"], instance["input"])))
        rows["train" if number % 5 else "validation"].append({"prompt": prompt, "chosen": instance["output"]})
    for split, examples in rows.items():
        answers = shuffled([row["chosen"] for row in examples])
        other = [{**row, "chosen": answer} for row, answer in zip(examples, answers, strict=True)]
        pairs = [{**row, "rejected": answer} for row, answer in zip(examples, answers, strict=True)]
        folders = {"answers": examples, "shuffled": other if split == "train" else examples, "preferences": pairs}
        for name, written in folders.items():
            (target / name).mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(row) + "\n" for row in written)
            (target / name / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def shuffled(answers: list[str]) -> list[str]:
    """Return the answers in another order, in which each place has another answer than before."""
    rng = random.Random(0)
    order = list(answers)
    while any(mine == own for mine, own in zip(order, answers, strict=True)):
        rng.shuffle(order)
        for place, (mine, own) in enumerate(zip(order, answers, strict=True)):
            if mine == own:  # swap with any other place
                other = rng.randrange(len(order))
                order[place], order[other] = order[other], order[place]
    return order


def instructions(data: Path, settings: dict[str, Any]) -> None:
    import peftkit

    columns = {"task": "instructions", "task.text": ["prompt"], "task.label": "chosen", "task.metrics": ["perplexity"]}
    train = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "disable_tqdm": True}
    chosen = {**settings, **columns, "train": train, "task.max_train_samples": 96}
    base = peftkit.finetune(method="zero_shot", **chosen, **{"task.dataset": str(data / "answers")})
    before = math.log(base.scores["perplexity"])
    print("| trained on | held-out loss, seeds 0, 1, 2 | mean | change |\n|---|---|---|---|")
    print(f"| nothing | {before:.3f} | {before:.3f} | |", flush=True)
    for name in ("answers", "shuffled"):
        runs = [
            peftkit.finetune(method="lora", seed=seed, **chosen, **{"task.dataset": str(data / name)}) for seed in SEEDS
        ]
        losses = [math.log(run.scores["perplexity"]) for run in runs]
        cells = ", ".join(f"{loss:.3f}" for loss in losses)
        print(f"| {name} | {cells} | {mean(losses):.3f} | {mean(losses) - before:+.3f} |", flush=True)


def preferences(data: Path, settings: dict[str, Any]) -> None:
    import peftkit

    chosen = {**settings, "recipe": "dpo", "task.dataset": str(data / "preferences"), "task.max_train_samples": 64}
    train = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "disable_tqdm": True}
    runs = [peftkit.finetune(method="lora", seed=seed, train=train, **chosen) for seed in SEEDS]
    print("| metric | before | after, seeds 0, 1, 2 | mean ± standard deviation |\n|---|---|---|---|")
    before = {"reward_accuracy": "0.5", "reward_margin": "0", "chosen_perplexity": ""}
    for name, known in before.items():
        values = [run.scores[name] for run in runs]
        cells = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {name} | {known} | {cells} | {mean(values):.3f} ± {stdev(values):.3f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
