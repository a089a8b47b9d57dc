"""Turn candidates into kept tasks and rejected ones, each with its reason, in two files that only grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from peftkit.config import Generate
from peftkit.generation.filters import check_instances, check_instruction, normalize_text
from peftkit.generation.journal import Journal
from peftkit.generation.novelty import NoveltyIndex
from peftkit.generation.parse import Rejection
from peftkit.generation.tasks import Instance, Task

Overlap = Callable[[Sequence[str]], "str | None"]  # texts: what of the evaluation sets they hold, in words


@dataclass
class Candidate:
    """What may become a task, and how it was made: requests by number, and its place in the first one's reply."""

    instruction: str
    made: dict[str, Any]
    is_classification: bool = False
    instances: Sequence[Instance] = ()


@dataclass
class TaskPool:
    """The seeds, and all that was kept and rejected so far."""

    seeds: Sequence[Task]
    settings: Generate
    overlap: Overlap
    kept_lines: Journal
    rejected_lines: Journal
    prefix: str = "generated"
    kept: list[Task] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    instance_reasons: Counter[str] = field(default_factory=Counter)
    undecided: int = 0  # candidates that were left when the target was reached

    def __post_init__(self) -> None:
        self.novelty = NoveltyIndex(self.settings.max_rouge_l)
        self.known: list[Task] = []
        self._same: dict[str, str] = {}
        for task in self.seeds:
            self._know(task)

    @property
    def is_full(self) -> bool:
        return len(self.kept) >= self.settings.num_instructions

    def fault(self, instruction: str) -> Rejection | None:
        """Return why an instruction is not to be kept, by its own words or by what is kept already."""
        return (
            check_instruction(instruction, self.settings.instruction_length, self.settings.blacklist)
            or self.likeness(instruction)
            or self.leak([instruction])
        )

    def likeness(self, instruction: str) -> Rejection | None:
        if (match := self.novelty.nearest(instruction)) is not None:
            return Rejection("similar", f"{match.score:.4f} to {self.known[match.number].id}")
        same = self._same.get(normalize_text(instruction))  # ROUGE-L sees nothing in letters beyond a to z
        return None if same is None else Rejection("similar", f"the same as {same}")

    def leak(self, texts: Sequence[str]) -> Rejection | None:
        found = self.overlap(texts)
        return None if found is None else Rejection("contaminated", found)

    def keep(self, candidate: Candidate) -> bool:
        """Keep a candidate with those of its instances that are good; reject it where none is."""
        good, faulty = check_instances(candidate.instances, candidate.instruction)
        for instance in list(good):
            if (fault := self.leak([instance.input, instance.output])) is not None:
                good.remove(instance)
                faulty.append((instance, fault))
        for instance, fault in faulty:
            self.reject_instance(candidate, fault, instance)
        if not good:
            self.reject(candidate, Rejection("no_instance", f"{len(faulty)} faulty"))
            return False
        task = Task(
            f"{self.prefix}_{len(self.kept):06d}",
            short_name(candidate.instruction),
            candidate.instruction,
            tuple(good),
            candidate.is_classification,
        )
        self.kept_lines.append([{**task.row(), "made": candidate.made}])
        self.kept.append(task)
        self._know(task)
        return True

    def reject(self, candidate: Candidate, fault: Rejection) -> None:
        self.reasons[fault.reason] += 1
        self._write("task", candidate, fault, {})

    def reject_instance(self, candidate: Candidate, fault: Rejection, instance: Instance | None = None) -> None:
        self.instance_reasons[fault.reason] += 1
        whole = {} if instance is None else {"input": instance.input, "output": instance.output}
        self._write("instance", candidate, fault, whole)

    def counts(self) -> dict[str, Any]:
        return {
            "kept": len(self.kept),
            "rejected": sum(self.reasons.values()),
            "rejected_instances": sum(self.instance_reasons.values()),
            "reasons": dict(self.reasons.most_common()),
            "instance_reasons": dict(self.instance_reasons.most_common()),
            "undecided": self.undecided,
            "compared_pairs": self.novelty.compared,
        }

    def sync(self) -> None:
        self.kept_lines.sync()
        self.rejected_lines.sync()

    def _know(self, task: Task) -> None:
        self.novelty.add(task.instruction)
        self.known.append(task)
        self._same.setdefault(normalize_text(task.instruction), task.id)

    def _write(self, what: str, candidate: Candidate, fault: Rejection, more: dict[str, str]) -> None:
        row = {"what": what, "instruction": candidate.instruction, **more, "reason": fault.reason}
        self.rejected_lines.append([{**row, "detail": fault.detail, "made": candidate.made}])


def short_name(instruction: str) -> str:
    """Return a short name after an instruction's first words."""
    words = "".join(letter if letter.isalnum() else " " for letter in instruction.lower()).split()
    return "_".join(words[:5])


def merge_first_input(task: Task) -> Task:
    """Put a task's first input into its instruction, as Evol-Instruct takes tasks."""
    first = task.instances[0]
    if not first.input:
        return task
    return replace(task, instruction=f"{task.instruction}\n\n{first.input}", instances=(Instance("", first.output),))
