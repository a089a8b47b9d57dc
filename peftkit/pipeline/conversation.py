"""A conversation with the model of a run: turns, prompts, and answers as they are generated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, Trainer

from peftkit import training
from peftkit.compat.transformers import generation_values
from peftkit.config import RunConfig, UserError
from peftkit.config.checks.decoding import generation_setting_errors, unfeasible_length
from peftkit.config.decoding import upstream_values
from peftkit.data.formats.instructions import InstructionFormat
from peftkit.data.formats.preferences import PreferenceFormat
from peftkit.data.turns import Turn, as_turn
from peftkit.pipeline.artifacts import load_with, with_generation, with_settings
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import decoding_of, predictor
from peftkit.results.run_result import RunResult


@dataclass(frozen=True)
class Answer:
    """An answer.

    Args:
        text: as job=predict has it.
        left_out: the number of earlier turns that did not fit into the context and are forgotten.
        truncated: the number of tokens at the start of the prompt that did not fit.
        is_cut: whether the maximum number of tokens ended it.
    """

    text: str
    left_out: int
    truncated: int
    is_cut: bool


@dataclass
class Conversation:
    """A conversation with a model.

    Args:
        system: what the system turn has; None without one.
        turns: those of the user and of the model, in turn.
        answers: the number of answers so far, by which sampling is seeded.
    """

    bundle: TrainingBundle
    trainer: Trainer
    seed: int
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    answers: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The generation settings."""
        return self.bundle.format.task.generation or {}

    def set(self, settings: Mapping[str, Any]) -> None:
        """Change generation settings; None removes one.

        Raises:
            UserError: a setting is unknown or wrong; nothing is changed.
        """
        found = with_settings(self.settings, dict(settings)) or {}
        task_format = replace(self.bundle.format, task=replace(self.bundle.format.task, generation=found or None))
        errors = [message for _, message in generation_setting_errors({**settings, **found}, prefix="")]
        errors = errors or list(filter(None, [unfeasible_length(task_format.task, prefix="")]))
        if errors:
            raise UserError("; ".join(errors))
        task_format.max_prompt_tokens(task_format.reserved, "max_new_tokens")
        self.bundle.format = task_format

    def answer(self, text: str, show: Callable[[str], None], is_stopped: Callable[[], bool]) -> Answer:
        """Answer a message.

        Args:
            show: called with each part of the answer as soon as later tokens cannot change it; with beams, once.
            is_stopped: whether the answer should end after this token.
        """
        has_turns, before = _format(self.bundle).takes_turns, len(self.turns)
        self.turns = [*(self.turns if has_turns else []), as_turn("user", text)]
        prompt, truncated = self._prompt()
        left_out = before + 1 - len(self.turns) if has_turns else 0
        stream = _Stream(lambda ids: str(self.bundle.tokenizer.decode(ids, skip_special_tokens=True)).strip(), show)
        try:
            ids = self._generate(prompt, stream, is_stopped)
        except BaseException:
            self.turns.pop()
            raise
        stream.finish(ids)
        self.answers += 1
        self.turns.append(as_turn("assistant", stream.shown))
        is_cut = self.bundle.tokenizer.eos_token_id not in ids and not is_stopped()
        return Answer(stream.shown, left_out, truncated, is_cut)

    def _generate(self, prompt: list[int], stream: "_Stream", is_stopped: Callable[[], bool]) -> list[int]:
        """Return the tokens of the answer to a prompt."""
        decoding, criteria = decoding_of(self.bundle, self.seed), StoppingCriteriaList([_Stop(is_stopped)])
        beams = generation_values(self.bundle.model, upstream_values(self.settings))["num_beams"]
        more = {"streamer": stream} if beams == 1 else {}  # beams change what came before
        return training.generate_batch(
            self.trainer, [prompt], decoding, [self.answers], stopping_criteria=criteria, **more
        )[0]

    def _prompt(self) -> tuple[list[int], int]:
        """Return the tokens of the turns that fit, and how many of the start are missing; older turns are forgotten."""
        task_format = _format(self.bundle)
        room = task_format.context_length - task_format.reserved
        system = [] if self.system is None else [as_turn("system", self.system)]
        while len(ids := task_format.encode_turns([*system, *self.turns])) > room and len(self.turns) > 1:
            self.turns = self.turns[2:]
        ((filled,), _) = task_format.with_shots([ids[-room:]], task_format.reserved)
        return filled, max(len(ids) - room, 0)


def open_conversation(config: RunConfig) -> Conversation:
    """Return a conversation with the run of a config.

    Raises:
        UserError: its prompts have no system turn, and one is given.
    """
    run = RunResult.finished(config.run)
    trained = with_generation(config, run.config)
    bundle = load_with(run, trained)
    found = Conversation(bundle, predictor(trained, bundle), trained.seed, config.chat.system)
    if found.system is not None:
        _format(bundle).encode_turns([as_turn("system", found.system), as_turn("user", "Hello.")])
    return found


def _format(bundle: TrainingBundle) -> InstructionFormat | PreferenceFormat:
    assert isinstance(bundle.format, InstructionFormat | PreferenceFormat)
    return bundle.format


class _Stream:
    """Shows the text of an answer as its tokens come, except what later tokens may change.

    Unlike transformers' TextStreamer, it shows exactly the decoded answer, and does not wait for a space.
    """

    def __init__(self, decode: Callable[[list[int]], str], show: Callable[[str], None]) -> None:
        self.decode, self.show, self.shown = decode, show, ""
        self.ids: list[int] | None = None

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt, then each token."""
        if self.ids is None:
            self.ids = []
            return
        self.ids += value.flatten().tolist()
        self._show(self.decode(self.ids).rstrip("\ufffd").rstrip())  # bytes that are not a character yet

    def end(self) -> None:
        """End the stream; `finish` shows the rest."""

    def finish(self, ids: list[int]) -> None:
        """Show the rest of an answer; all of it where its end changed what was shown."""
        text = self.decode(ids)
        if not text.startswith(self.shown):
            self.show("\n")
            self.shown = ""
        self._show(text)

    def _show(self, text: str) -> None:
        if text.startswith(self.shown) and len(text) > len(self.shown):
            self.show(text[len(self.shown) :])
            self.shown = text


class _Stop(StoppingCriteria):
    """Ends the answer once a function returns True."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self.is_stopped = is_stopped

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.is_stopped(), device=input_ids.device)
