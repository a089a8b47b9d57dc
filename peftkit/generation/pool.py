"""The pool of tasks: filters candidates, and records every kept and rejected one with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from peftkit.config import Generate
from peftkit.generation.client import BudgetExceeded, GenerationClient
from peftkit.generation.filters import check_instances, check_instruction, normalize_text
from peftkit.generation.journal import Journal
from peftkit.generation.novelty import NoveltyIndex
from peftkit.generation.rejection import Rejection
from peftkit.generation.tasks import Instance, Task

Overlap = Callable[[Sequence[str]], "str | None"]  # texts -> a description of their overlap with evaluation sets


@dataclass
class Candidate:
    """A generated instruction, and its provenance: numbers of requests, and the position in the first reply."""

    instruction: str
    provenance: dict[str, Any]
    is_classification: bool = False
    instances: Sequence[Instance] = ()


@dataclass
class TaskPool:
    """The seeds, the kept tasks, and the counts of rejections by reason."""

    seeds: Sequence[Task]
    settings: Generate
    overlap: Overlap
    kept_file: Journal
    rejected_file: Journal
    prefix: str = "generated"  # of the ids of new tasks
    kept: list[Task] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    instance_reasons: Counter[str] = field(default_factory=Counter)
    undecided: int = 0  # candidates that were left when the pool was full

    def __post_init__(self) -> None:
        self.novelty = NoveltyIndex(self.settings.max_rouge_l)
        self.tasks: list[Task] = []  # seeds and kept ones, numbered as in the index
        self._ids: dict[str, str] = {}  # by normalized instruction
        for task in self.seeds:
            self._add(task)

    @property
    def is_full(self) -> bool:
        return len(self.kept) >= self.settings.num_instructions

    def check(self, instruction: str) -> Rejection | None:
        """Return why an instruction is rejected, on its own or beside the tasks of the pool."""
        return (
            check_instruction(instruction, self.settings.instruction_length, self.settings.blacklist)
            or self.check_novelty(instruction)
            or self._check_contamination([instruction])
        )

    def check_novelty(self, instruction: str) -> Rejection | None:
        if (match := self.novelty.nearest(instruction)) is not None:
            return Rejection("similar", f"{match.score:.4f} to {self.tasks[match.number].id}")
        same = self._ids.get(normalize_text(instruction))  # ROUGE-L ignores letters other than a to z
        return None if same is None else Rejection("similar", f"the same as {same}")

    def keep(self, candidate: Candidate) -> Task | None:
        """Keep a candidate with its valid instances; reject it and return None where it has none."""
        valid, rejected = check_instances(candidate.instances, candidate.instruction)
        for instance in list(valid):
            if (rejection := self._check_contamination([instance.input, instance.output])) is not None:
                valid.remove(instance)
                rejected.append((instance, rejection))
        for instance, rejection in rejected:
            self.reject_instance(candidate, rejection, instance)
        if not valid:
            self.reject(candidate, Rejection("no_instance", f"{len(rejected)} faulty"))
            return None
        task = Task(
            f"{self.prefix}_{len(self.kept):06d}",
            short_name(candidate.instruction),
            candidate.instruction,
            tuple(valid),
            candidate.is_classification,
        )
        self.kept_file.append({**asdict(task), "made": candidate.provenance})
        self.kept.append(task)
        self._add(task)
        return task

    def reject(self, candidate: Candidate, rejection: Rejection) -> None:
        self.reasons[rejection.reason] += 1
        self._write_rejection("task", candidate, rejection, {})

    def reject_instance(self, candidate: Candidate, rejection: Rejection, instance: Instance | None = None) -> None:
        self.instance_reasons[rejection.reason] += 1
        self._write_rejection("instance", candidate, rejection, asdict(instance) if instance else {})

    def counts(self) -> dict[str, Any]:
        return {
            "kept": len(self.kept),
            "rejected": self.reasons.total(),
            "rejected_instances": self.instance_reasons.total(),
            "reasons": dict(self.reasons.most_common()),
            "instance_reasons": dict(self.instance_reasons.most_common()),
            "undecided": self.undecided,
            "compared_pairs": self.novelty.compared,
        }

    def sync(self) -> None:
        self.kept_file.sync()
        self.rejected_file.sync()

    def _check_contamination(self, texts: Sequence[str]) -> Rejection | None:
        overlap = self.overlap(texts)
        return None if overlap is None else Rejection("contaminated", overlap)

    def _add(self, task: Task) -> None:
        self.novelty.add(task.instruction)
        self.tasks.append(task)
        self._ids.setdefault(normalize_text(task.instruction), task.id)

    def _write_rejection(self, what: str, candidate: Candidate, rejection: Rejection, more: dict[str, str]) -> None:
        row = {"what": what, "instruction": candidate.instruction, **more, **rejection._asdict()}
        self.rejected_file.append({**row, "made": candidate.provenance})


def fill_pool(
    pool: TaskPool,
    client: GenerationClient,
    algorithm: Callable[[TaskPool, GenerationClient], Iterator[None]],
    log_progress: Callable[[], None] = lambda: None,
) -> str:
    """Run the rounds of an algorithm until the pool is full or a limit is reached; return the setting that ended it.

    Args:
        algorithm: yields after each round, and ends after the last one.
    """
    rounds, fruitless = algorithm(pool, client), 0
    try:
        while not pool.is_full:
            if fruitless >= pool.settings.patience:
                return "patience"
            count = len(pool.kept)
            if next(rounds, "end") is not None:
                return "evolutions"
            pool.sync()
            fruitless = 0 if len(pool.kept) > count else fruitless + 1
            log_progress()
    except BudgetExceeded as error:
        return str(error)
    return "num_instructions"


def short_name(instruction: str) -> str:
    """Return the first five words of an instruction as a name."""
    words = "".join(letter if letter.isalnum() else " " for letter in instruction.lower()).split()
    return "_".join(words[:5])


def merge_first_input(task: Task) -> Task:
    """Return a task with its first input as part of the instruction, which is what Evol-Instruct evolves."""
    first = task.instances[0]
    if not first.input:
        return task
    return replace(task, instruction=f"{task.instruction}\n\n{first.input}", instances=(Instance("", first.output),))
