"""The fix in a refusal of a job is typed, and that refusal is gone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import commands
from helpers.commands import apply_fix

from peftkit.config import UserError

Rows = Sequence[dict[str, Any]]
OWN = "task=classification task.text=[text] task.label=label"
TEXTS = [{"text": f"a fine film {number}", "label": label} for number in range(12) for label in ("pos", "neg")]
QUESTION = {"question": "Who?", "context": "Ann built it.", "answers": {"text": ["Ann"], "answer_start": [0]}}


def labeled(*labels: Any, **columns: Any) -> Rows:
    """Return two texts of each label, with other columns."""
    return [{"text": f"text {number} {label}", "label": label, **columns} for number in range(2) for label in labels]


FILES: dict[str, Rows] = {
    "plain": TEXTS,
    "objects": [{"text": {"body": row["text"], "n": 1}, "label": row["label"]} for row in TEXTS],
    "classes": labeled(*range(1001)),
    "scores": labeled(*range(20)),
    "names": labeled("it's, ok", "$HOME", 'a "b"'),
    "turns": [{"instruction": f"do {number}", "output": f"done {number}"} for number in range(12)],
    "tags": [{"tokens": ["a", "film"], "tags": tags} for tags in (["DET", "NOUN"], ["NOUN", "NOUN"]) * 4],
    "questions": [{**QUESTION, "question": f"{number}?", "context": f"{number} Ann built it.", "answers": {"text": ["Ann"], "answer_start": [len(f"{number} ")]}} for number in range(6)],
    "unanswered": [{**QUESTION, "question": f"{number}?", "answers": {"text": ["Ann"] * (number < 6), "answer_start": [0] * (number < 6)}} for number in range(12)],
    "reversed": [{"prompt": f"p{number}", "chosen": "no", "rejected": "yes", "score_chosen": 1.0, "score_rejected": 5.0} for number in range(24)],
    "numbers/train": labeled(0, 1, 2), "numbers/validation": labeled(0, 1, 2, 3),
    "other/train": TEXTS, "other/dev": TEXTS[:4],
}  # fmt: skip
PLAIN = f"{OWN} task.dataset=plain.jsonl"
QUESTIONS = "task=question_answering task.stride=8 task.dataset=questions.jsonl"
SEARCH = "job=finetune search.lr_multipliers=[1,2] train.max_steps=1"
EMBED = "job=embed input=plain.jsonl output=x.npy"
REFUSED = [  # the model, and the overrides of a job=plan or of another job
    ("bert", f"{OWN} task.dataset=objects.jsonl"),
    ("bert", f"{OWN} task.dataset=classes.jsonl"),
    ("bert", f"{OWN} task.dataset=numbers"),
    ("bert", f"{OWN} task.dataset=names.jsonl \"task.labels=['it\\'s, ok',b]\""),
    ("bert", f"{OWN} task.dataset=other"),
    ("bert", f"{PLAIN} task=regression"),
    ("bert", f"{PLAIN} task.class_weights={{poss:2}}"),
    ("bert", f"{PLAIN} task.text=[txet]"),
    ("bert", f"{PLAIN} task.label=lable"),
    ("bert", f"{PLAIN} method=full model.keep_layers=[9]"),
    ("bert", f"{PLAIN} method=prompt method.config.num_virtual_tokens=1000"),
    ("bert", f"{PLAIN} method=peft method.config._target_=peft.LoraConfig +method.config.target_modules=[nothing]"),
    ("bert", f"{PLAIN} model.checkpoint=vocabulary"),
    ("gpt2", f"{PLAIN} model=bert"),
    ("gpt2", f"{PLAIN} task=causal_lm task.max_target_length=200"),
    ("t5", f"{OWN} task.dataset=scores.jsonl task=regression"),
    ("gpt2", "task=instructions task.dataset=turns.jsonl"),
    ("bert", "task=token_classification task.dataset=tags.jsonl task.text=[tokens] task.label=tags"),
    ("bert", f"{QUESTIONS} task.stride=128"),
    ("bert", f"{QUESTIONS} task.dataset=unanswered.jsonl"),
    ("bert", "task=retrieval task.dataset=plain.jsonl task.text=[text,label] task.matryoshka_dims=[9999]"),
    ("bert", f"{PLAIN} {SEARCH} search.samples=20"),
    ("gpt2", f"task=instructions task.dataset=turns.jsonl task.text=[instruction] task.label=output {SEARCH} search.samples=4"),
    ("gpt2", "task=preferences task.max_target_length=32 task.dataset=reversed.jsonl"),
    ("gpt2", f"{PLAIN} task=causal_lm task.packing=true"),
    ("bert", f"{PLAIN} source=hub model.checkpoint=nobody/nothing"),
    ("bert", f"{PLAIN} method=gradual method.config.every=1000 job=finetune"),
    ("t5", f"{PLAIN} method=bitfit"),
    ("distilbert", f"{PLAIN} model=distilbert method=peft method.config._target_=peft.PrefixTuningConfig method.config.num_virtual_tokens=4"),
    ("distilbert", f"{PLAIN} model=distilbert method=peft method.config._target_=peft.VeraConfig method.config.r=4"),
    ("bert", f"{EMBED} embed.truncate_dim=9999"),
    ("bert", f"{EMBED} embed.layer=99"),
    ("bert", f"{EMBED} embed.column=txt"),
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, rows in FILES.items():
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "vocabulary.json").write_text("{}")
    return tmp_path


def refusal(overrides: Sequence[str]) -> UserError | None:
    """Return how a command is refused, by its first error."""
    multirun = "-m" in overrides
    if errors := commands.check([each for each in overrides if each != "-m"], multirun=multirun):
        return UserError(errors[0])
    try:
        commands.run(overrides)
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("model", "line"),
    [pytest.param(*each, id=each[1], marks=[] if each in REFUSED[:4] else pytest.mark.slow) for each in REFUSED],
)
def test_the_fix_of_a_refusal_corrects_it(model: str, line: str, tiny: Callable[..., list[str]], files: Path) -> None:
    base = ["job=plan", *tiny(model)[:3]]
    keys = {each.partition("=")[0] for each in shlex.split(line)} - {"task"}
    command = [each for each in base if each.partition("=")[0] not in keys] + shlex.split(line)
    error = refusal(command)
    assert error is not None
    assert error.fix, str(error)
    for fix in error.fix:
        assert str(refusal(apply_fix(command, fix))) != str(error), fix
