"""Turn the result of a run into a dataset card, which also tells `datasets` what lies in the folder, and a picture."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = {"chat": "messages: a user's turn and an assistant's, one row an instance", "tasks": "the paper's: id, name, "
           "instruction, instances, is_classification, one row a task"}  # fmt: skip
REASONS = {
    "similar": "too near a kept instruction by ROUGE-L",
    "too_short": "fewer words than `generate.instruction_length` allows",
    "too_long": "more words than `generate.instruction_length` allows",
    "blacklist": "names what a model of text can neither see nor do",
    "starts_with_punctuation": "starts with punctuation",
    "not_latin": "starts in another script, or is mostly written in one",
    "contaminated": "overlaps an evaluation set",
    "cut_off": "the reply ended before it did",
    "empty_reply": "there was nothing in the reply",
    "preamble": "a sentence about the reply, and no instruction",
    "not_asked_for": "beyond the number that was asked for",
    "refused": "the endpoint refused the prompt",
    "type_unclear": "no answer to whether it is a classification",
    "no_instance": "none of its instances is good",
    "malformed_instance": "an input without its output, or the other way round",
    "empty_output": "no output",
    "output_is_input": "the output is the input",
    "output_is_instruction": "the output is the instruction",
    "same_input_other_output": "one input with different outputs",
    "same_instance": "the same instance twice",
    "unchanged": "the evolution changed nothing",
    "words_of_the_prompt": "holds words of the prompt that evolved it",
    "nothing_new": "the model finds it equal to what it was made of",
    "cannot_answer": "the answer only apologises",
    "says_nothing": "the answer is punctuation and stop words",
}


def dataset_card(result: Mapping[str, Any]) -> str:
    """Return README.md: what is there, how it was made, what was thrown away, how to load it and make it again."""
    config, counts, kept = result["run"]["config"], result["counts"], result["kept"]
    settings, model = config["generate"], result["audit"]["sources"]["model"]
    stand_in = (
        f"> **Model: {model['name']} (offline) stands in for {model['substituted_for']}.**\n\n"
        if model.get("substituted_for")
        else ""
    )
    about = textwrap.fill(
        f"{counts['kept']:,} tasks with {kept['instances']:,} instances, {kept['classifications']:,} of them "
        f"classifications, generated from {result['audit']['seeds']['tasks']} seeds by {model['name']} with "
        f"{settings['algorithm']} (seed {config['seed']}). {counts['rejected']:,} candidates were rejected; it "
        f"ended by `{result['ended']}`.",
        120,
    )
    return f"""---
configs:
- config_name: chat
  data_files: chat/train.parquet
  default: true
- config_name: tasks
  data_files: tasks/train.parquet
tags: [peftkit, synthetic, {settings["algorithm"]}]
---
# {counts["kept"]:,} tasks by {settings["algorithm"]}

{stand_in}{about}

```python
from datasets import load_dataset

rows = load_dataset("THIS_FOLDER", "chat", split="train")   # {COLUMNS["chat"]}
tasks = load_dataset("THIS_FOLDER", "tasks", split="train")  # {COLUMNS["tasks"]}
```

## Lengths, in words

| | mean | median | least | most |
|---|---|---|---|---|
{_lengths(kept["lengths"])}

## Verbs, and what they are done to

The first verb of an order and the end of its object, found by word lists, in {kept["with_verb"]:,} of the instructions.

| verb | instructions | objects |
|---|---|---|
{_verbs(kept["verbs"])}

## How far from the seeds

ROUGE-L of each instruction to the seed that it is nearest to: mean {kept["nearest_seed"]["mean"]:.3f}, most
{kept["nearest_seed"]["max"]:.3f}. No two kept instructions are as near as {settings["max_rouge_l"]} to each other.

![histogram](similarity.png)

## What was rejected

Every candidate, with its reason, is in rejected.jsonl.

| candidates | reason |
|---|---|
{_reasons(counts["reasons"])}

{_instances(counts["instance_reasons"])}## What it cost

{_cost(result["costs"])}

## Make it again

```bash
python -m peftkit {shlex.join(result["run"]["overrides"])}
```
"""


def plot_similarity(bars: Sequence[int], file: Path) -> None:
    """Write the histogram of ROUGE-L to the nearest seed as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 1 / len(bars)
    axes.bar([(place + 0.5) * width for place in range(len(bars))], bars, width=0.9 * width, color="#0072B2")
    axes.set(xlim=(0, 1), xlabel="ROUGE-L to the nearest seed", ylabel="instructions")
    axes.spines[["top", "right"]].set_visible(False)
    part = file.with_name(f".{file.name}.part")
    figure.savefig(part, format="png", dpi=150, metadata={"Software": None})
    part.replace(file)


def _lengths(found: Mapping[str, Mapping[str, float]]) -> str:
    return "\n".join(
        f"| {name} | {row['mean']:.1f} | {row['median']:g} | {row['min']} | {row['max']} |"
        for name, row in found.items()
    )


def _verbs(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"| {row['verb']} | {row['count']} | {', '.join(f'{noun} {count}' for noun, count in row['nouns'].items())} |"
        for row in rows
    )


def _reasons(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join(f"| {count:,} | {reason}: {REASONS[reason]} |" for reason, count in ranked)


def _instances(counts: Mapping[str, int]) -> str:
    return f"| instances | reason |\n|---|---|\n{_reasons(counts)}\n\n" if counts else ""


def _cost(costs: Mapping[str, Any]) -> str:
    money = "" if costs["cost"] is None else f" {costs['cost']:.4f} by the prices that were given."
    dropped = (
        f" {costs['shortened_prompts']:,} prompts had examples dropped to fit." if costs["shortened_prompts"] else ""
    )
    return (
        f"{costs['requests']:,} requests in {costs['attempts']:,} attempts, {costs['tokens_in']:,} tokens read, "
        f"{costs['tokens_out']:,} written.{money}{dropped}"
    )
