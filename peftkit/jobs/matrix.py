"""Which methods work with which models and heads: checked on tiny models, written as Markdown and JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from peftkit.config import RunConfig
from peftkit.config.console import log
from peftkit.jobs.matrix_checks import FAILED, HEAD_TASKS, REFUSED, SUPPORTED, Combination, check_method
from peftkit.paths import group_files
from peftkit.pipeline.verify import VerificationError
from peftkit.results.run_folder import write_text

MODELS = {  # name in conf/model: name of its tiny checkpoint, title on the page
    "bert": ("bert", "BERT (encoders)"),
    "minilm": ("bert", "MiniLM (mean-pooling encoders)"),
    "distilbert": ("distilbert", "DistilBERT"),
    "roberta": ("roberta", "RoBERTa"),
    "gpt2": ("gpt2", "GPT-2 (decoders)"),
    "smollm2": ("smollm2", "SmolLM2 (Llama decoders)"),
    "t5": ("t5", "T5 (sequence to sequence)"),
    "t5_encoder": ("t5", "T5, only the encoder"),
}
GENERIC_METHOD = "peft"  # conf/method/peft.yaml, whose config class the user sets
EXTRAS = {
    "merges": "merges", "several": "several adapters", "mixed": "mixed batches", "4-bit": "on a 4-bit base",
    "tasks": "several tasks", "tags": "tags of tasks",
}  # fmt: skip
HEADER = """# Every method with every model and head

Written by `python -m peftkit job=matrix`, which checks each combination on a tiny model of the family: it trains, every
trainable weight gets a gradient, and every frozen weight stays bitwise identical. The same scores are required of an
example by itself and in a padded batch, of a saved and loaded model, of the base and a model with its adapter disabled,
and of the model before and after adding a second adapter or merging. They are compared in fp32, also over a 4-bit base,
and padding over any other base in fp64, with a relative tolerance of 1e-5 (merging: 1e-4). "several
tasks" are two heads over one body, which must not share a weight of the heads. A number refers to a
reason below. matrix.json has all results."""


def matrix(config: RunConfig) -> None:
    """Check every method with every model and head, and write matrix.md and matrix.json to `output` or docs/reference.

    Raises:
        VerificationError: a check failed.
    """
    target = Path(config.output or "docs/reference")
    results: list[Combination] = []
    for method in methods():
        results += (each for model, (tiny, _) in MODELS.items() for each in check_method(method, model, tiny))
        counts = Counter(each.status for each in results if each.method == method)
        log(f"{method:>20}  " + ", ".join(f"{counts[s]} {s}" for s in (SUPPORTED, REFUSED, FAILED) if counts[s]))
    write_text(target / "matrix.json", json.dumps([asdict(each) for each in results], indent=1) + "\n")
    write_text(target / "matrix.md", page(results))
    log(f"-> {target / 'matrix.md'}, {target / 'matrix.json'}")
    if failed := [each for each in results if each.status == FAILED]:
        raise VerificationError(
            f"{len(failed)} combinations failed, the first is {failed[0].method} on {failed[0].model}"
        )


def methods() -> list[str]:
    """Return the names of the methods in conf/method."""
    return sorted(group_files("method").keys() - {GENERIC_METHOD})


def page(results: Sequence[Combination]) -> str:
    """Return the results as Markdown: a table per model, the capabilities, and the reasons of refused combinations."""
    reasons: dict[str, int] = {}
    names = list(dict.fromkeys(each.method for each in results))
    sections = [HEADER]
    for model, (_, title) in MODELS.items():
        cells = {(each.method, each.head): _cell(each, reasons) for each in results if each.model == model}
        heads = [head for head in HEAD_TASKS if (names[0], head) in cells]
        entries = [[name, *(cells[name, head] for head in heads)] for name in names]
        sections.append(f"## {title}\n\n" + _table(["method", *(head.replace("_", " ") for head in heads)], entries))
    supported = [each for each in results if each.status == SUPPORTED]
    entries = [
        [name, *(_where([each for each in supported if each.method == name], extra) for extra in EXTRAS)]
        for name in names
    ]
    sections.append("## Capabilities of the supported combinations\n\n" + _table(["method", *EXTRAS.values()], entries))
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    sections += ["\n".join(["## Reasons of the refused combinations", "", *notes])] if notes else []
    return "\n\n".join(sections) + "\n"


def _cell(result: Combination, reasons: dict[str, int]) -> str:
    """Return the status with the number of its reason; a new reason is added to `reasons`."""
    if result.status == SUPPORTED:
        return SUPPORTED
    return f"{result.status} [{reasons.setdefault(str(result.reason), len(reasons) + 1)}]"


def _where(supported: Sequence[Combination], extra: str) -> str:
    """Return yes, no, or the models and heads that have the capability."""
    supported = [each for each in supported if extra in each.extras]
    having = [each for each in supported if each.extras[extra]]
    if len(having) in (0, len(supported)):
        return "yes" if having else "no"
    without = {each.model for each in supported if not each.extras[extra]}
    complete = dict.fromkeys(each.model for each in having if each.model not in without)
    others = (f"{each.model} {each.head.replace('_', ' ')}" for each in having if each.model in without)
    return ", ".join([*complete, *others])


def _table(header: Sequence[str], entries: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *entries))
