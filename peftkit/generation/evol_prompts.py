"""The prompts of Evol-Instruct (Xu et al. 2023, section 3.2), in our own wording."""

from __future__ import annotations

from dataclasses import replace

from peftkit.generation.generators import GenerationPrompt

HEAD = "### Evolved task:"
IN_DEPTH = (
    "Below is a task for a language model. Make it somewhat harder, so that even a strong model must take care with "
    "it, while a person can still understand it and answer. {how} Whatever it holds beside words, as a table or code, "
    "stays in it. Add between ten and twenty words at most. Answer with the new task alone, and do not carry it out."
)
OPERATIONS = {
    "constraints": IN_DEPTH.format(how="Do so by one more condition or requirement that the answer must meet."),
    "deepening": IN_DEPTH.format(how="Do so by asking for more depth and breadth on what it asks about."),
    "concretising": IN_DEPTH.format(how="Do so by putting more special ideas in place of the general ones in it."),
    "reasoning": IN_DEPTH.format(
        how="If a few simple thoughts are enough for it, word it so that several steps of reasoning are asked for."
    ),
    "complicated_input": IN_DEPTH.format(
        how="Do so by giving data to work on, such as a table, JSON, XML, code, a formula, or a query."
    ),
    "breadth": (
        "Below is a task for a language model. Take it as a model for another, entirely new task: of the same field, "
        "but rarer, and about as long and as hard as this one. It must make sense, and a person must be able to answer "
        "it. Answer with the new task alone, and do not carry it out."
    ),
}
COMPARE = (
    "Below are two tasks for a language model. Do they ask for the same, in depth and in breadth, and under the same "
    "conditions? Answer Equal if so, else Different, and nothing more."
)


def evolution_prompt(instruction: str, operation: str, sampling: GenerationPrompt) -> GenerationPrompt:
    """Return the prompt that evolves an instruction; `sampling` has the length and sampling settings."""
    question = f"### Task:\n{instruction}\n\n{HEAD}\n"
    return replace(sampling, opening=OPERATIONS[operation] + "\n", question=question, stop=("### Task:",))


def comparison_prompt(before: str, after: str) -> GenerationPrompt:
    """Return the prompt for whether an evolved task equals its origin."""
    question = f"### First task:\n{before}\n\n### Second task:\n{after}\n\n### Answer:"
    return GenerationPrompt(COMPARE + "\n", (), question, ("\n###",), 8)


def answer_prompt(instruction: str, length: int) -> GenerationPrompt:
    """Return the prompt for an answer to the instruction."""
    return GenerationPrompt(instruction, (), "", ("### Task:",), length)
