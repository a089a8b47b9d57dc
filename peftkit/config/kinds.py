"""The kinds of task: data, metrics, heads, PEFT task types and answer formats of each."""

from dataclasses import dataclass, field
from typing import Protocol

from peftkit.config.job_record import Requirement

ENCODER, DECODER, SEQ2SEQ = "encoder", "decoder", "seq2seq"
_TEXT = ("exact_match", "token_f1", "rouge_l")
_SEQUENCE = "AutoModelForSequenceClassification"
_CAUSAL, _TO_TEXT = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
_BACKBONE = "peftkit.models.heads:Backbone"


class HasKind(Protocol):
    """The fields that select a record, as `TaskConfig` has them: this module cannot import it."""

    kind: str
    label: str | list[str] | None


@dataclass(frozen=True)
class TaskKind:
    """One value of `task.kind`. A new kind is a record here, a module in `data.formats` and a YAML in conf/task.

    The keys of `heads` are the architectures that the kind supports. A head is an Auto class of transformers, or
    "module:Class". A format is "module:Class" below `peftkit.data.formats`.
    """

    name: str
    summary: str
    metrics: tuple[str, ...]  # the first is the default
    columns: tuple[str, ...]  # example names for task.text
    column_count: tuple[int, int | None]  # the fewest and the most
    heads: dict[str, str]
    formats: dict[str, str]
    task_types: dict[str, str | None] = field(default_factory=dict)  # PEFT's TaskType; None where PEFT has none
    pipelines: dict[str, str] = field(default_factory=dict)  # of transformers, for model cards
    objectives: dict[str, str] = field(
        default_factory=dict
    )  # named on boards: scores of different objectives are not comparable
    label: Requirement = "required"  # task.label
    keys: tuple[str, ...] = ()  # keys of `task` that only the kinds that list them read
    needs: dict[str, str] = field(default_factory=dict)  # of those, the keys that have to be set, with an example
    generates: bool = False  # answered by generated text
    unlabeled_metrics: tuple[str, ...] = ()  # without task.label the text itself is modeled, scored only by these
    has_label_names: bool = False
    sequence_label: bool = False  # one class or number for the whole input
    several_labels: bool = False  # any number of classes for the whole input; task.label may be several columns
    chat_template: bool = False  # its tokenizer formats turns, and is saved with the adapter
    generators: tuple[str, ...] = ()  # values of task.dataset that generate the data first
    refusal_alias: str | None = None  # methods that refuse this other kind refuse this one too
    loss: str | None = None  # what replaces the model's own loss
    package: tuple[str, str] | None = None  # a package that training needs, and the extra that installs it

    @property
    def chooses_class(self) -> bool:
        """Whether the whole input gets one of several classes."""
        return self.sequence_label and self.has_label_names

    @property
    def has_label_probabilities(self) -> bool:
        """Whether each class has a probability for the whole input."""
        return self.has_sequence_head and self.has_label_names

    @property
    def has_sequence_head(self) -> bool:
        """Whether the scores are those of the whole input."""
        return self.sequence_label or self.several_labels


def _every(value: str) -> dict[str, str]:
    return dict.fromkeys((ENCODER, DECODER, SEQ2SEQ), value)


_CLASSIFIER = {ENCODER: _SEQUENCE, DECODER: _SEQUENCE, SEQ2SEQ: _TO_TEXT}
_LABEL_FORMATS = {
    ENCODER: "classification:SequenceClassificationFormat",
    DECODER: "classification:SequenceClassificationFormat",
    SEQ2SEQ: "classification:TextToTextFormat",
}
_LABEL_TYPES: dict[str, str | None] = {ENCODER: "SEQ_CLS", DECODER: "SEQ_CLS", SEQ2SEQ: "SEQ_2_SEQ_LM"}

_KINDS = (
    TaskKind(
        "classification",
        "one class for one or two texts",
        metrics=("accuracy", "f1", "macro_f1", "matthews_correlation"),
        columns=("first", "second"),
        column_count=(1, 2),
        heads=_CLASSIFIER,
        formats=_LABEL_FORMATS,
        task_types=_LABEL_TYPES,
        pipelines={ENCODER: "text-classification", DECODER: "text-classification"},
        keys=(
            "prompt",
            "verbalizer",
            "stratify",
            "class_weights",
            "sampling",
            "focal_gamma",
            "folds",
            "fold",
            "domain",
        ),
        has_label_names=True,
        sequence_label=True,
    ),
    TaskKind(
        "regression",
        "one number for one or two texts",
        metrics=("pearson", "spearman", "mean_squared_error"),
        columns=("first", "second"),
        column_count=(1, 2),
        heads=_CLASSIFIER,
        formats=_LABEL_FORMATS,
        task_types=_LABEL_TYPES,
        pipelines={ENCODER: "text-classification", DECODER: "text-classification"},
        keys=("prompt", "verbalizer", "label_order", "folds", "fold", "domain"),
        sequence_label=True,
    ),
    TaskKind(
        "multilabel",
        "any number of classes for one or two texts",
        metrics=("micro_f1", "macro_f1", "sample_f1", "subset_accuracy", "average_precision"),
        columns=("first", "second"),
        column_count=(1, 2),
        heads=dict.fromkeys((ENCODER, DECODER), _SEQUENCE),
        formats=dict.fromkeys((ENCODER, DECODER), "multilabel:MultilabelFormat"),
        task_types=dict.fromkeys((ENCODER, DECODER), "SEQ_CLS"),
        pipelines=dict.fromkeys((ENCODER, DECODER), "text-classification"),
        keys=("label_separator", "stratify", "class_weights", "focal_gamma", "folds", "fold", "domain"),
        has_label_names=True,
        several_labels=True,
    ),
    TaskKind(
        "token_classification",
        "one tag for each word",
        metrics=("token_accuracy", "entity_f1"),
        columns=("tokens",),
        column_count=(1, 1),
        heads=dict.fromkeys((ENCODER, DECODER), "AutoModelForTokenClassification"),
        formats=dict.fromkeys((ENCODER, DECODER), "token_classification:TokenClassificationFormat"),
        task_types=dict.fromkeys((ENCODER, DECODER), "TOKEN_CLS"),
        pipelines=dict.fromkeys((ENCODER, DECODER), "token-classification"),
        keys=("domain",),
        has_label_names=True,
    ),
    TaskKind(
        "question_answering",
        "the span of a passage that answers a question",
        metrics=("exact_match", "token_f1"),
        columns=("question", "context"),
        column_count=(2, 2),
        heads=dict.fromkeys((ENCODER, DECODER), "AutoModelForQuestionAnswering"),
        formats=dict.fromkeys((ENCODER, DECODER), "question_answering:QuestionAnsweringFormat"),
        task_types=dict.fromkeys((ENCODER, DECODER), None),
        keys=("stride", "no_answer"),
    ),
    TaskKind(
        "causal_lm",
        "continue a text, or answer it where there is a label",
        metrics=("perplexity", *_TEXT),
        columns=("first", "second"),
        column_count=(1, 2),
        heads={DECODER: _CAUSAL},
        formats={DECODER: "text_generation:TextGenerationFormat"},
        task_types={DECODER: "CAUSAL_LM"},
        pipelines={DECODER: "text-generation"},
        label="optional",
        keys=("max_target_length",),
        generates=True,
        unlabeled_metrics=("perplexity",),
    ),
    TaskKind(
        "seq2seq",
        "sequence-to-sequence generation",
        metrics=("perplexity", *_TEXT),
        columns=("first", "second"),
        column_count=(1, 2),
        heads={SEQ2SEQ: _TO_TEXT},
        formats={SEQ2SEQ: "text_generation:TextGenerationFormat"},
        task_types={SEQ2SEQ: "SEQ_2_SEQ_LM"},
        keys=("max_target_length",),
        generates=True,
    ),
    TaskKind(
        "instructions",
        "answer instructions or chat turns",
        metrics=("perplexity", *_TEXT, "format_rate"),
        columns=("instruction", "input"),
        column_count=(1, 2),
        heads={DECODER: _CAUSAL, SEQ2SEQ: _TO_TEXT},
        formats=dict.fromkeys((DECODER, SEQ2SEQ), "instructions:InstructionFormat"),
        task_types={DECODER: "CAUSAL_LM", SEQ2SEQ: "SEQ_2_SEQ_LM"},
        pipelines={DECODER: "text-generation"},
        label="optional",
        keys=("max_target_length", "packing"),
        generates=True,
        chat_template=True,
        generators=("self_instruct", "evol_instruct"),
    ),
    TaskKind(
        "language_modeling",
        "continue pretraining on plain text",
        metrics=("bits_per_byte",),
        columns=("text",),
        column_count=(1, 1),
        heads={ENCODER: "AutoModelForMaskedLM", DECODER: _CAUSAL, SEQ2SEQ: _TO_TEXT},
        formats=_every("language_modeling:LanguageModelingFormat"),
        task_types={ENCODER: None, DECODER: "CAUSAL_LM", SEQ2SEQ: "SEQ_2_SEQ_LM"},
        pipelines={ENCODER: "fill-mask", DECODER: "text-generation"},
        objectives={ENCODER: "masked words", DECODER: "next token", SEQ2SEQ: "spans"},
        label="no",
        keys=("sample_by", "noise_density", "mean_noise_span_length", "whole_words", "packing", "join_documents"),
    ),
    TaskKind(
        "retrieval",
        "embed queries and documents for search",
        metrics=("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10"),
        columns=("query", "document"),
        column_count=(2, None),
        heads=_every(_BACKBONE),
        formats=_every("retrieval:RetrievalFormat"),
        task_types={**_every("FEATURE_EXTRACTION")},
        label="no",
        keys=("scale", "matryoshka_dims"),
        needs={"scale": "20"},
        loss="contrastive training",
        package=("sentence_transformers", "embed"),
    ),
    TaskKind(
        "preferences",
        "preference optimization (DPO)",
        metrics=("reward_accuracy", "reward_margin", "chosen_perplexity"),
        columns=("prompt", "chosen", "rejected"),
        column_count=(3, 3),
        heads={DECODER: _CAUSAL},
        formats={DECODER: "preferences:PreferenceFormat"},
        task_types={DECODER: "CAUSAL_LM"},
        pipelines={DECODER: "text-generation"},
        label="no",
        keys=("max_target_length", "beta", "loss_type", "label_smoothing", "chat"),
        needs={"beta": "0.1", "loss_type": "sigmoid"},
        chat_template=True,
        refusal_alias="causal_lm",
        loss="DPO",
    ),
)

KINDS: dict[str, TaskKind] = {kind.name: kind for kind in _KINDS}


def kind_of(task: HasKind) -> TaskKind:
    """Return the record of a task's kind."""
    return KINDS[task.kind]


def label_columns(task: HasKind) -> list[str]:
    """Return the columns of a task's labels: none, one, or one for each label."""
    return [] if task.label is None else [task.label] if isinstance(task.label, str) else list(task.label)


def generates_text(task: HasKind) -> bool:
    """Return whether a task is answered by text that the model generates."""
    kind = kind_of(task)
    return kind.generates and (task.label is not None or not kind.unlabeled_metrics)
