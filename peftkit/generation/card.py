"""The dataset card of generated data, with the configs that `datasets` reads in its header, and its histogram."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.generation.client import describe_costs
from peftkit.generation.rejection import REASONS

CARD = """---
configs:
- config_name: chat
  data_files: chat/train.parquet
  default: true
- config_name: tasks
  data_files: tasks/train.parquet
tags: [peftkit, synthetic, {algorithm}]
---
# {kept:,} tasks by {algorithm}

{warning}{summary}

```python
from datasets import load_dataset

chat = load_dataset("THIS_FOLDER", "chat", split="train")    # messages: a user and an assistant turn per instance
tasks = load_dataset("THIS_FOLDER", "tasks", split="train")  # id, name, instruction, instances, is_classification
```

## Lengths in words

| | mean | median | min | max |
|---|---|---|---|---|
{lengths}

## Verbs and their objects

The first verb of an imperative and the last word of its object, by word lists, in {with_verb:,} of the instructions.

| verb | instructions | objects |
|---|---|---|
{verbs}

## Similarity to the seeds

ROUGE-L of each instruction to its most similar seed: mean {mean:.3f}, maximum {max:.3f}. Between any two kept
instructions it is below {max_rouge_l}.

![histogram](similarity.png)

## Rejected candidates

rejected.jsonl lists every rejected candidate with its reason.

| candidates | reason |
|---|---|
{reasons}

{instance_reasons}## Costs

{costs}

## Reproduction

```bash
python -m peftkit {command}
```
"""


def dataset_card(result: Mapping[str, Any]) -> str:
    """Return README.md: content, origin, statistics, rejections, costs, and the command that generates it again."""
    config, counts, kept, costs = result["run"]["config"], result["counts"], result["kept"], result["costs"]
    settings, model = config["generate"], result["audit"]["sources"]["model"]
    replaced, name = model.get("substituted_for"), model["name"]
    summary = (
        f"{counts['kept']:,} tasks with {kept['instances']:,} instances, {kept['classifications']:,} of them "
        f"classifications, generated from {result['audit']['seeds']['tasks']} seeds by {name} with "
        f"{settings['algorithm']} (seed {config['seed']}). {counts['rejected']:,} candidates were rejected; "
        f"`generate.{result['ended']}` ended the generation."
    )
    shortened = f"; examples were dropped from {costs['shortened_prompts']:,} prompts" * bool(
        costs["shortened_prompts"]
    )
    instance_table = f"| instances | reason |\n|---|---|\n{_reasons(counts['instance_reasons'])}\n\n"
    return CARD.format(
        kept=counts["kept"],
        warning=f"> **Model: {name} (offline) replaces {replaced}.**\n\n" if replaced else "",
        summary=textwrap.fill(summary, 120),
        lengths=_table(
            (part, f"{row['mean']:.1f}", f"{row['median']:g}", row["min"], row["max"])
            for part, row in kept["lengths"].items()
        ),
        verbs=_table(
            (row["verb"], row["count"], ", ".join(f"{noun} {count}" for noun, count in row["nouns"].items()))
            for row in kept["verbs"]
        ),
        reasons=_reasons(counts["reasons"]),
        instance_reasons=instance_table if counts["instance_reasons"] else "",
        costs=f"{describe_costs(costs)}, in {costs['attempts']:,} attempts{shortened}.",
        command=shlex.join(result["run"]["overrides"]),
        **{name: settings[name] for name in ("algorithm", "max_rouge_l")},
        **{name: kept["nearest_seed"][name] for name in ("mean", "max")},
        with_verb=kept["with_verb"],
    )


def plot_similarity(bars: Sequence[int], file: Path) -> None:
    """Write the histogram of ROUGE-L to the most similar seed as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 1 / len(bars)
    axes.bar([(place + 0.5) * width for place in range(len(bars))], bars, width=0.9 * width, color="#0072B2")
    axes.set(xlim=(0, 1), xlabel="ROUGE-L to the most similar seed", ylabel="instructions")
    axes.spines[["top", "right"]].set_visible(False)
    part = file.with_name(f".{file.name}.part")
    figure.savefig(part, format="png", dpi=150, metadata={"Software": None})
    part.replace(file)


def _table(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _reasons(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _table((f"{count:,}", f"{reason}: {REASONS[reason]}") for reason, count in ranked)
