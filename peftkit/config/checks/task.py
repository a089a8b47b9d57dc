"""Turn a run's task into what does not go together in it: its kind, its keys, its columns, its scores."""

from __future__ import annotations

import string
from importlib.util import find_spec

from peftkit.config.checks.preferences import PREFERENCES, preferring
from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest

_TEXT = ("exact_match", "token_f1", "rouge_l")
METRICS_OF: dict[str, tuple[str, ...]] = {  # of each kind of task
    "classification": ("accuracy", "f1", "macro_f1", "matthews_correlation"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
    "token_classification": ("token_accuracy", "entity_f1"),
    "question_answering": ("exact_match", "token_f1"),
    "causal_lm": ("perplexity", *_TEXT),
    "seq2seq": ("perplexity", *_TEXT),
    "instructions": ("perplexity", *_TEXT, "format_rate"),
    "language_modeling": ("bits_per_byte",),
    "retrieval": ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10"),
    "preferences": ("reward_accuracy", "reward_margin", "chosen_perplexity"),
}
LANGUAGE = (
    "sample_by",
    "noise_density",
    "mean_noise_span_length",
    "whole_words",
    "join_documents",
)  # keys of that kind alone
FAMILIES = {  # the models that have a head for it, and one to try
    "token_classification": (("encoder", "decoder"), "t5_encoder"),
    "question_answering": (("encoder", "decoder"), "t5_encoder"),
    "causal_lm": (("decoder",), "gpt2"),
    "seq2seq": (("seq2seq",), "t5"),
    "instructions": (("decoder", "seq2seq"), "gpt2"),
}


def task_mismatches(run: RunConfig) -> list[str]:
    """Return a sentence for each."""
    return [*_task(run), *_vectors(run), *preferring(run)]


def _task(run: RunConfig) -> list[str]:
    task, found = run.task, _splits(run)
    known = METRICS_OF.get(task.kind, ())
    if wrong := [name for name in task.metrics if name not in known]:
        found.append(f"task.kind={task.kind} has no {', '.join(wrong)}; say task.metrics=[{','.join(known[:2])}]")
    if task.kind == "causal_lm" and task.label is None and task.metrics != ["perplexity"]:
        found.append("without a label there is no text to compare with; say task.metrics=[perplexity], or task.label=")
    unlabelled = ("causal_lm", "instructions", "language_modeling", "retrieval", "preferences")
    if task.label is None and task.kind not in unlabelled:
        found.append(f"task.label is not set; say task.label=... (task.kind={task.kind} learns from it)")
    columns_of = {
        "question_answering": (2, "question,context"), "token_classification": (1, "tokens"),
        "language_modeling": (1, "text"), "preferences": (3, "prompt,chosen,rejected"),
    }  # fmt: skip
    wanted, example = columns_of.get(task.kind, (len(task.text), ""))
    if len(task.text) != wanted:
        found.append(f"task.kind={task.kind} reads {wanted} column{'s'[: wanted - 1]}; say task.text=[{example}]")
    if len(task.text) > 2 and task.kind not in ("retrieval", "preferences"):
        found.append(f"task.kind={task.kind} reads one or two columns; say task.text=[{','.join(task.text[:2])}]")
    for key, kinds in (
        ("stride", ("question_answering",)),
        ("no_answer", ("question_answering",)),
        ("max_target_length", ("causal_lm", "instructions", "seq2seq", "preferences")),
        *((key, ("language_modeling",)) for key in LANGUAGE),
        ("packing", ("instructions", "language_modeling")),
        ("scale", ("retrieval",)),
        ("matryoshka_dims", ("retrieval",)),
        *((key, ("preferences",)) for key in PREFERENCES),
    ):
        if getattr(task, key) and task.kind not in kinds:
            found.append(f"task.{key} is not for task.kind={task.kind}; drop it")
    found += _language(run) if task.kind == "language_modeling" else []
    found += _instructions(run) if task.kind == "instructions" else []
    if "f1" in task.metrics and task.labels is not None and len(task.labels) != 2:
        found.append("f1 is for two labels; say task.metrics=[accuracy,macro_f1]")
    try:
        columns = [name for _, name, _, _ in string.Formatter().parse(task.template or "") if name is not None]
    except ValueError as error:
        return [*found, f"task.template cannot be read: {error}; write {{column}} where a text belongs"]
    found += [
        f"task.template: there is no column {{{name}}}{nearest(name, task.text)}"
        for name in sorted({*columns} - {*task.text})
    ]
    return found


def _splits(run: RunConfig) -> list[str]:
    splits, known, found = run.task.splits, ("train", "validation"), []
    for name in (str(name) for name in splits if name not in known):
        found.append(f"unknown key task.splits.{name}{nearest(name, known, 'task.splits.')}")
    for name in known:
        if name not in splits:
            found.append(f"task.splits.{name} is not set; say task.splits.{name}=...")
    train, held_out = splits.get("train"), splits.get("validation", [])
    if not isinstance(train, (str, type(None))):
        found.append(f"task.splits.train={train} is wrong: it takes one name; say task.splits.train=train")
    if not isinstance(held_out, list) or not all(isinstance(name, str) for name in held_out):
        found.append(f"task.splits.validation={held_out} is wrong: it takes names; say task.splits.validation=[dev]")
    if JOBS[run.job].trains and train is None and "train" in splits:
        found.append(f"task={run.task.name} has no training rows; train on task=mnli, then job=evaluate run=DIR")
    return found


def _language(run: RunConfig) -> list[str]:
    """Complain about ways to cut and hide text that the family, or the method, does not have."""
    task, family, found = run.task, run.model.family, []
    if task.packing and family != "decoder":
        found.append(f"task.packing is for decoders, model={run.model.name} is none; say task.join_documents=true")
    if task.packing and task.join_documents:
        found.append("task.packing keeps documents apart, task.join_documents does not; drop one")
    found += _soft_prompt(run)
    if task.whole_words and family != "encoder":
        found.append(f"task.whole_words is for encoders, model={run.model.name} is none; drop it")
    if len(task.splits.get("validation") or []) != 1:
        found.append("task.kind=language_modeling holds out one split; say task.splits.validation=[held_out]")
    if run.train.get("dataloader_persistent_workers"):
        found.append("train.dataloader_persistent_workers would damage text alike in every epoch; drop it")
    if task.label is not None or task.template is not None:
        found.append("task.kind=language_modeling reads text alone; drop task.label and task.template")
    return found


def _instructions(run: RunConfig) -> list[str]:
    """Complain about columns that make no conversation."""
    task, found = run.task, []
    if task.label is None and len(task.text) > 1:
        found.append("columns of instructions need the one that answers them; say task.label=output")
    if task.label is not None and "messages" in task.text:
        found.append("a column of messages has its answers in it; drop task.label")
    if task.template is not None:
        found.append("task.kind=instructions is asked by the tokenizer's chat template; drop task.template")
    if task.packing and run.model.family == "seq2seq":
        found.append(f"task.packing is for decoders, model={run.model.name} is none; say task.packing=false")
    return found + _soft_prompt(run)


def _soft_prompt(run: RunConfig) -> list[str]:
    """Complain about packed rows that would each have to begin with a prompt."""
    if run.task.packing and not run.method.traits.packable:
        return [f"method={run.method.name} begins every row with a prompt of its own; say task.packing=false"]
    return []


def _vectors(run: RunConfig) -> list[str]:
    """Complain about what contrastive training cannot do without, and about what only job=embed looks at."""
    found, task, train, embed = [], run.task, run.train, run.embed
    if run.job != "embed" and embed is not None:
        set_here = {
            "pooling": embed.pooling,
            "layer": embed.layer,
            "truncate_dim": embed.truncate_dim,
            "max_length": embed.max_length,
        }
        for key in (key for key, value in set_here.items() if value is not None):
            found.append(f"embed.{key}= is for job=embed alone; drop it")
    if task.kind != "retrieval" or not JOBS[run.job].trains:
        return found
    if find_spec("sentence_transformers") is None:
        found.append("task.kind=retrieval is trained by sentence-transformers; pip install 'peftkit[embed]'")
    if run.method.traits.regularized:
        found.append(
            f"method={run.method.name} does not work on task={task.name}: it regularizes the model's own loss, which "
            "contrastive training replaces; use method=lora"
        )
    if len(task.text) < 2:
        found.append("task.kind=retrieval reads a query and its document; say task.text=[query,document]")
    if task.label is not None:
        found.append("task.label is not for task.kind=retrieval, where the document is what is right; drop it")
    if task.scale is None:
        found.append("task.scale is not set; say task.scale=20")
    if train.get("label_smoothing_factor"):
        found.append("train.label_smoothing_factor is not for task.kind=retrieval; drop it")
    if train.get("per_device_train_batch_size") == 1 and len(task.text) == 2:
        found.append("a batch of one query has no wrong document; say train.per_device_train_batch_size=32")
    return found
