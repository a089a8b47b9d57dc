"""The dataset card of generated data, with the configs that `datasets` reads in its header, and its statistics."""

import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from statistics import mean, median
from typing import Any

from peftkit.generation.client import describe_costs
from peftkit.generation.filters import REASONS
from peftkit.generation.instruction_tasks import InstructionTask
from peftkit.metrics.words import rouge_l_scores, text_words
from peftkit.paths import atomic_write

# the verbs that imperative instructions begin with; others are not counted
_VERBS = (
    "add adapt advise agree analyze answer argue arrange assign brainstorm break build calculate change check choose "
    "classify combine compare complete compose compress compute conjugate construct contrast convert correct count "
    "craft create critique decide decode deduce define derive describe design detect determine develop diagnose "
    "discuss distinguish divide draft edit elaborate encode enumerate estimate evaluate examine expand explain express "
    "extract fill filter find finish fix follow form format formulate generate give group guess help highlight "
    "identify illustrate imagine improve indicate infer insert interpret invent judge justify label list make mark "
    "match merge modify name narrate number offer order organize outline paraphrase pick plan play predict prepare "
    "present produce prompt proofread propose prove provide punctuate put rank rate read rearrange reason recommend "
    "reconstruct reduce reformat remove rename reorder repair rephrase replace reply report respond restate reverse "
    "review revise rewrite say score select separate shorten show simplify simulate solve sort speculate spell split "
    "state structure suggest sum summarize supply take tell test tidy transcribe transform translate turn unscramble "
    "update use verify weigh work write"
)
_ARTICLES = (
    "a an the this that these those your my our their his her its some any each every all both several few many one "
    "two three four five six seven eight nine ten following given below me us"
)
_ENDS = (
    "about above across after against along among around as at because before behind between beyond by during for from "
    "how if in inside into is are was were be of off on onto or out over per since so than that then through to toward "
    "towards under until up upon using via what when where whether which while who whom whose why with within without "
    "and but can could should would will may might must has have had do does did"
)
_FILLERS = "please then and now can could would you to"
VERBS, ARTICLES, ENDS, FILLERS = (frozenset(words.split()) for words in (_VERBS, _ARTICLES, _ENDS, _FILLERS))
BARS = 20  # of the histogram
SHOWN_VERBS, SHOWN_NOUNS = 20, 4  # nouns per verb

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


def dataset_statistics(tasks: Sequence[InstructionTask], seeds: Sequence[InstructionTask]) -> dict[str, Any]:
    """Return the section `kept` of result.json: lengths in words, verbs and objects, ROUGE-L to the nearest seed."""
    instances = [instance for task in tasks for instance in task.instances]
    texts = {
        "instruction": [task.instruction for task in tasks],
        "input": [instance.input for instance in instances if instance.input],
        "output": [instance.output for instance in instances],
    }
    lengths = {name: [len(text.split()) for text in values] for name, values in texts.items() if values}
    pairs = [pair for task in tasks if (pair := verb_and_noun(task.instruction)) is not None]
    verbs = _ranked(Counter(verb for verb, _ in pairs))[:SHOWN_VERBS]
    nouns = {verb: Counter(noun for other, noun in pairs if other == verb and noun) for verb, _ in verbs}
    seed_tokens = [text_words(seed.instruction) for seed in seeds]
    similarity = [max(rouge_l_scores(text_words(task.instruction), seed_tokens), default=0.0) for task in tasks]
    bars = Counter(min(int(score * BARS), BARS - 1) for score in similarity)
    return {
        "instances": len(instances),
        "classifications": sum(task.is_classification for task in tasks),
        "lengths": {
            name: {"mean": round(mean(sizes), 2), "median": median(sizes), "min": min(sizes), "max": max(sizes)}
            for name, sizes in lengths.items()
        },
        "with_verb": len(pairs),
        "verbs": [
            {"verb": verb, "count": count, "nouns": dict(_ranked(nouns[verb])[:SHOWN_NOUNS])} for verb, count in verbs
        ],
        "nearest_seed": {
            "mean": mean(similarity or [0.0]),
            "max": max(similarity, default=0.0),
            "histogram": [bars[bar] for bar in range(BARS)],
        },
    }


def verb_and_noun(instruction: str) -> tuple[str, str | None] | None:
    """Return the verb of an imperative, and the last word before a preposition or a comma, which is mostly its object.

    It uses word lists and no parser: a verb is one of VERBS at the start of a clause; questions have none.
    """
    for clause in re.split(r"[,.:;!?()\n]+", instruction.lower()):
        verb, *words = [*dropwhile(FILLERS.__contains__, re.findall(r"[a-z][a-z'-]*", clause)), ""]
        if verb in VERBS:
            phrase = [word for word in takewhile(lambda word: word not in ENDS, words[:-1]) if word not in ARTICLES]
            return verb, phrase[-1] if phrase else None
    return None


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    width = 1 / len(bars)
    axes.bar([(index + 0.5) * width for index in range(len(bars))], bars, width=0.9 * width, color="#0072B2")
    axes.set(xlim=(0, 1), xlabel="ROUGE-L to the most similar seed", ylabel="instructions")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(file) as part:
        figure.savefig(part, format="png", dpi=150, metadata={"Software": None})


def _table(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _reasons(counts: Mapping[str, int]) -> str:
    return _table((f"{count:,}", f"{reason}: {REASONS[reason]}") for reason, count in _ranked(counts))


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent first; ties in alphabetical order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
