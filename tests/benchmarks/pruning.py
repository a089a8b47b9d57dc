"""Scores, size and speed of runs with fewer attention heads, chosen by importance or at random; docs/results/heads.md.

    python tests/benchmarks/pruning.py DATA_ROOT OUT --task sst2 --seed 0     # trains, prunes, and adds to OUT/heads.jsonl
    python tests/benchmarks/pruning.py DATA_ROOT OUT --table                  # the tables of the page

Speed is the CPU time of the pruned model over that of the whole one, in turn, on one thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch

import peftkit
from peftkit.models.attention_heads import attention_layers, remove_heads
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.encoding import read_dataset
from peftkit.pipeline.evaluate import holdout_score, predictor
from peftkit.pipeline.libraries import library_settings
from peftkit.pipeline.pruning import head_importance, least_important
from peftkit.training import predict_scores

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SETTINGS = {"sst2": {"num_train_epochs": 2}, "mrpc": {"num_train_epochs": 4}}
SAMPLES, EXAMPLES, ROUNDS = 256, 1500, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root")
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", choices=SETTINGS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    file = given.out / "heads.jsonl"
    if given.table:
        print(tables([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]))
        return
    for entry in measure(given.data_root, given.out, given.task, given.seed):
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")
        print(entry, flush=True)


def measure(data_root: str, out: Path, task: str, seed: int) -> Any:
    """Yield the score of the whole model, and of each share of heads by importance and at random."""
    run = peftkit.finetune(
        model="minilm", method="full", task=task, seed=seed, source="offline", data_root=data_root, out=str(out),
        threads=1, train={**SETTINGS[task], "per_device_train_batch_size": 16}, **{"task.max_train_samples": EXAMPLES},
    )  # fmt: skip
    with library_settings("offline", 1):
        config, bundle, data = run.config, load_bundle(run), read_dataset(run.config)
        encoded = bundle.format.encode(data.splits["validation"])
        order = np.random.default_rng(seed).permutation(len(data.splits["train"]))[:SAMPLES]
        whole = copy.deepcopy(bundle.model)
        started = time.process_time()
        importance = head_importance(bundle, attention_layers(bundle.model), data.splits["train"].select(order), seed)
        seconds = time.process_time() - started
        random = np.random.default_rng(seed)
        for share in (0.0, *SHARES):
            for how in ("importance", "random"):
                values = (
                    importance if how == "importance" else {n: random.random(len(v)) for n, v in importance.items()}
                )
                removed = least_important(values, share)
                model = copy.deepcopy(whole)
                remove_heads(model, removed)
                times = [ratio(model, whole, encoded.inputs, size) if how == "importance" else None for size in (1, 32)]
                pruned = replace(bundle, model=model)  # whose forward pass the trainer wraps
                found = predict_scores(predictor(config, pruned), encoded.inputs, encoded.lengths)
                yield {
                    "task": task, "seed": seed, "share": share, "how": how,
                    "score": holdout_score(config, pruned, found.scores, encoded),
                    "removed": sum(map(len, removed.values())),
                    "parameters": sum(weight.numel() for weight in model.parameters()),
                    "one": times[0], "batch": times[1],
                    "importance_seconds": seconds,
                }  # fmt: skip


@torch.no_grad()
def ratio(model: Any, whole: Any, inputs: Any, size: int) -> float:
    """Return the CPU time of a model over that of the whole one, for batches of 24 tokens; the median of rounds."""
    tokens = torch.tensor([(list(inputs[0]["input_ids"]) * 24)[:24]] * size)
    times: dict[str, list[float]] = defaultdict(list)
    for name, each in [("whole", whole), ("pruned", model)] * (ROUNDS + 1):
        started = time.process_time()
        for _ in range(64 // size or 1):
            each.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        times[name].append(time.process_time() - started)
    return median(b / a for a, b in zip(times["whole"][1:], times["pruned"][1:], strict=True))


def tables(entries: Sequence[dict[str, Any]]) -> str:
    """Return a table of each task: the score by importance and at random, parameters and times, over seeds."""
    lines = []
    for task in SETTINGS:
        found: dict[tuple[float, str], list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            if entry["task"] == task:
                found[entry["share"], entry["how"]].append(entry)
        lines += [
            f"\n{task}\n",
            "| heads removed | by importance | at random | parameters | time, one | time, 32 |",
            "|---|---|---|---|---|---|",
        ]
        for share in sorted({share for share, _ in found}):
            best, other = found[share, "importance"], found[share, "random"]
            lines.append(
                f"| {best[0]['removed']} of 72 ({share:.0%}) | {_spread(best)} | {_spread(other)} | "
                f"{best[0]['parameters'] / 1e6:.2f} M | {mean(e['one'] for e in best):.2f} | "
                f"{mean(e['batch'] for e in best):.2f} |"
            )
    return "\n".join(lines)


def _spread(entries: Sequence[dict[str, Any]]) -> str:
    scores = [100 * entry["score"] for entry in sorted(entries, key=lambda entry: entry["seed"])]
    return f"{mean(scores):.1f} ± {stdev(scores):.1f}" if len(scores) > 1 else f"{scores[0]:.1f}"


if __name__ == "__main__":
    main()
