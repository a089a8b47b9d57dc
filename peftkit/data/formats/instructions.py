"""Turn conversations into what a model reads and the answer that it learns, and what it writes into answers."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset

from peftkit.data.chat import Turn, asked, asked_and_answered, teach_template
from peftkit.data.formats.format import Encoded
from peftkit.data.formats.texts import ANSWER_TOKENS, Texts, encoded_pairs
from peftkit.schema import UserError


@dataclass(frozen=True)
class Instructions(Texts):
    """Instruction tuning: the answer alone is learned (Ouyang et al. 2022, section 3.5; Wang et al. 2023, section 4).

    A decoder reads the turns in the tokenizer's chat template, and its answer ends with the end of text even where the
    template would not say so. An encoder-decoder reads what the turns say, with a line for each: of a conversation that
    goes on, who said it too.
    """

    def __post_init__(self) -> None:
        if self.is_decoder:
            teach_template(self.tokenizer)

    @property
    def writes(self) -> int:
        return self.task.max_target_length or ANSWER_TOKENS

    @property
    def room(self) -> int:
        """Return how many tokens of the turns are read; what a decoder writes takes places too."""
        return min(self.task.max_length, self.tokenizer.model_max_length - (self.writes if self.is_decoder else 0))

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise turns, cut from their start to `task.max_length`, and answers, cut to `task.max_target_length`.

        `places` are the tokens that count, and the prompt (tokens,) that is to be answered.
        """
        if self.room < 1:
            longest = self.tokenizer.model_max_length
            raise UserError(
                f"the model reads {longest} tokens, and task.max_target_length={self.writes} leaves none to ask in; "
                f"say task.max_target_length={longest // 2}"
            )
        pairs = [self._pair(turns, label) for turns, label in zip(rows["messages"], rows["label"], strict=True)]
        cut = [len(read) > self.room or len(written) > self.writes for read, written in pairs]
        read = [read[-self.room :] for read, _ in pairs]
        return encoded_pairs(rows, read, [written[: self.writes] for _, written in pairs], cut, self.is_decoder)

    def _pair(self, turns: list[Turn], label: str | None) -> tuple[list[int], list[int]]:
        """Return the tokens of what is asked, and those of the answer, none where there is none yet."""
        end = self.tokenizer.eos_token_id
        if self.is_decoder and label is None:
            return asked(self.tokenizer, turns), [end]
        if self.is_decoder:
            read, written = asked_and_answered(self.tokenizer, [*turns, {"role": "assistant", "content": str(label)}])
            return read, written if end in written else [*written, end]
        goes_on = any(turn["role"] == "assistant" for turn in turns)
        text = "\n".join(f"{turn['role']}: {turn['content']}" if goes_on else turn["content"] for turn in turns)
        read = self.tokenizer(text, verbose=False)["input_ids"]
        return read, list(self.tokenizer(text_target=label or "", verbose=False)["input_ids"])
