"""Prompts and verbalizers of the GLUE tasks for decoders."""

from __future__ import annotations

from dataclasses import dataclass

from peftkit.config import TaskConfig, UserError, nearest

TRUTH = {"entailment": "True", "neutral": "Neither", "contradiction": "False", "not_entailment": "False"}


@dataclass(frozen=True)
class PromptTemplate:
    """A template of the columns, and the verbalizer: a word for each label, or for some numbers of a regression."""

    text: str
    verbalizer: dict[str, str]


# sst2 and cola: Gao et al. 2021 (LM-BFF), table 1, whose mask is near the end; entailment: Brown et al. 2020, appendix
# G (RTE, ANLI). The others use its format, since a decoder answers at the end. The verbalizer of STS-B has
# the ends of its range, between which scores are interpolated (Gao et al. 2021, section 4.2).
PROMPTS = {
    "sst2": PromptTemplate("{sentence} It was", {"negative": "terrible", "positive": "great"}),
    "cola": PromptTemplate("{sentence} This is", {"unacceptable": "incorrect", "acceptable": "correct"}),
    "mrpc": PromptTemplate(
        "{sentence1}\n{sentence2}\nquestion: Do both sentences say the same? Yes or No?\nanswer:",
        {"not_equivalent": "No", "equivalent": "Yes"},
    ),
    "qqp": PromptTemplate(
        "{question1}\n{question2}\nquestion: Do both questions ask the same? Yes or No?\nanswer:",
        {"not_duplicate": "No", "duplicate": "Yes"},
    ),
    "stsb": PromptTemplate(
        "{sentence1}\n{sentence2}\nquestion: Do both sentences say the same? Yes or No?\nanswer:",
        {"0": "No", "5": "Yes"},
    ),
    "mnli": PromptTemplate("{premise}\nquestion: {hypothesis} True, False, or Neither?\nanswer:", TRUTH),
    "ax": PromptTemplate("{premise}\nquestion: {hypothesis} True, False, or Neither?\nanswer:", TRUTH),
    "qnli": PromptTemplate(
        "{sentence}\nquestion: {question} Is the answer there? Yes or No?\nanswer:",
        {"entailment": "Yes", "not_entailment": "No"},
    ),
    "rte": PromptTemplate("{sentence1}\nquestion: {sentence2} True or False?\nanswer:", TRUTH),
    "wnli": PromptTemplate("{sentence1}\nquestion: {sentence2} True or False?\nanswer:", TRUTH),
}


def prompt_template(task: TaskConfig, names: list[str] | None) -> PromptTemplate:
    """Return the prompt of a decoder: `task.prompt`, else that of the GLUE task, else the columns with their names.

    The word of a label is that of `task.verbalizer`, else that of the GLUE prompt, else its name. Spaces at the end of
    the prompt are removed, since the word brings its own.
    """
    known = PROMPTS.get(task.name) if task.suite == "glue" else None
    lines = "".join(f"{column}: {{{column}}}\n" for column in task.text)
    text = (task.prompt or "").rstrip(" ") or (known.text if known else f"{lines}{task.label}:")
    return PromptTemplate(text, verbalizer_of(task, names, known.verbalizer if known else {}))


def verbalizer_of(task: TaskConfig, names: list[str] | None, usual: dict[str, str]) -> dict[str, str]:
    """Return the word of each label; of a regression only the numbers that have one.

    Raises:
        UserError: `task.verbalizer` has an unknown label.
    """
    given = {str(label): str(word) for label, word in (task.verbalizer or {}).items()}
    if names is None:
        return given or usual
    for label in given.keys() - {*names}:
        raise UserError(f"task.verbalizer: the data has no label {label}{nearest(label, names)}")
    return {name: given.get(name) or usual.get(name) or name.replace("_", " ") for name in names}
