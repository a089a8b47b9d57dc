"""The names of the metrics and what each reads, from the source of peftkit.metrics: importing it would load numpy."""

import ast
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from peftkit.config.kinds import TaskKind
from peftkit.config.own_code import own_metrics
from peftkit.config.suggestions import nearest, with_hint
from peftkit.paths import PACKAGE

EVALUATE = "evaluate:"  # before the name of a metric of Hugging Face's evaluate


@cache
def metric_inputs() -> dict[str, str]:
    """Return each metric's name and input: the functions decorated with `@metric(input, ...)`."""
    return {
        function.name: str(ast.literal_eval(call.args[0]))
        for file in sorted((PACKAGE / "metrics").glob("*.py"))
        for function in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(function, ast.FunctionDef)
        for call in function.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "metric"
    }


def metrics_for(kind: TaskKind, packages: Sequence[str] = ()) -> list[str]:
    """Return the metrics of a kind, its own first, then the others that read the same inputs.

    Args:
        packages: the user's own, opened by allow_code.
    """
    inputs = {name: input for name, (input, _) in own_metrics(packages).items()} | metric_inputs()
    read = {inputs[name] for name in kind.metrics}
    read -= {"classes"} if kind.several_labels else set()  # of these only macro_f1 is also of several labels
    return [*kind.metrics, *(name for name, input in inputs.items() if input in read and name not in kind.metrics)]


def metric_error(name: str, kind: TaskKind, packages: Sequence[str] = ()) -> str | None:
    """Return the message about a wrong name in task.metrics, None where it is right.

    Modules of evaluate run their own code, so a recipe may name only those that evaluate's authors publish.
    """
    if name.startswith(EVALUATE):
        module = name.removeprefix(EVALUATE).split(":")[0]
        if not module:
            return f"task.metrics=[{name}]: expected a name of evaluate, such as {EVALUATE}mae"
        if not re.fullmatch(r"\w+", module) or Path(module).exists():  # evaluate would run the file of that name
            return (
                f"task.metrics=[{name}]: it would run code that evaluate's authors did not publish; "
                f"use an official evaluate metric, such as {EVALUATE}mae"
            )
    elif name not in (known := metrics_for(kind, packages)):
        wrong = f"task.metrics=[{name}]: unknown metric of task.kind={kind.name}"
        hint = nearest(name, known, "task.metrics=[", "]")
        if not packages and not getattr(hint, "fix", ()):
            hint = f"{hint}, or type allow_code=[mypackage] for one of your own"
        return with_hint(wrong, hint)
    return None
