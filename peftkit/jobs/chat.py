"""A conversation with a run, in a terminal or line by line from a pipe."""

import json
import sys
from contextlib import ExitStack, suppress
from typing import Any

from peftkit.config import RunConfig, UserError, nearest
from peftkit.config.checks.values import as_typed
from peftkit.config.console import log
from peftkit.config.signals import on_interrupt
from peftkit.jobs.chat_terminal import read_lines, write_text
from peftkit.pipeline.conversation import Conversation, open_conversation

COMMANDS = {
    "/set": "show the generation settings; /set do_sample=true temperature=0.7 changes them, null removes one",
    "/reset": "forget the turns before",
    "/help": "list the commands",
    "/exit": "end the chat, as Ctrl-D does",
}


def chat(config: RunConfig) -> None:
    """Answer each line of stdin on stdout; notices are on stderr.

    In a terminal, Ctrl-C ends an answer or drops the line, and wrong input is a notice; in a pipe it is an error.
    """
    conversation, is_terminal = open_conversation(config), sys.stdin is not None and sys.stdin.isatty()
    interrupts = _Interrupts()
    with ExitStack() as stack:
        if is_terminal:
            log(f"{_describe(conversation)}; /help lists the commands, Ctrl-D ends the chat")
            stack.enter_context(on_interrupt(interrupts.react))
        for line in read_lines(is_terminal):
            try:
                if not _run_line(conversation, line, interrupts):
                    return
            except UserError as error:
                if not is_terminal:
                    raise
                log(str(error))


class _Interrupts:
    """What Ctrl-C does: during an answer it ends that, the second time with an error; else it drops the line."""

    def __init__(self) -> None:
        self.is_answering = self.is_stopped = False

    def react(self) -> None:
        if not self.is_answering or self.is_stopped:
            raise KeyboardInterrupt
        self.is_stopped = True


def _run_line(conversation: Conversation, line: str, interrupts: _Interrupts) -> bool:
    """Answer a message or run a command; return whether the chat goes on."""
    text = line.strip()
    if text.startswith("/") and not text.startswith("//"):
        return _run_command(conversation, text)
    if not text:
        return True
    interrupts.is_answering, interrupts.is_stopped = True, False
    try:
        answer = conversation.answer(text.removeprefix("/"), write_text, lambda: interrupts.is_stopped)
    except KeyboardInterrupt:  # the second one, or that of a pipe
        if interrupts.is_stopped:
            return True
        raise
    finally:
        interrupts.is_answering = False
        write_text("\n")
    most = conversation.bundle.format.task.answer_length
    if answer.left_out:
        log(f"the oldest {answer.left_out} turns do not fit into the context and are left out")
    if answer.truncated:
        log(f"the message is too long: its first {answer.truncated} tokens are left out")
    if answer.is_cut:
        log(f"the answer is cut off at {most} tokens; /set max_new_tokens={2 * most} allows more")
    if not answer.text:
        log("the answer is empty")
    return True


def _run_command(conversation: Conversation, text: str) -> bool:
    """Run a command; return whether the chat goes on.

    Raises:
        UserError: the command or a setting is unknown or wrong.
    """
    name, *arguments = text.split()
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS)
        raise UserError(f"unknown command {name}{hint} (a message that begins with a slash is typed with two)")
    if name == "/set" and arguments:
        conversation.set(dict(map(_parse_setting, arguments)))
    if name == "/set":
        log(_describe(conversation))
    elif name == "/reset":
        conversation.turns.clear()
        log("the turns before are forgotten")
    elif name == "/help":
        log("\n".join(f"{each:<8}{summary}" for each, summary in COMMANDS.items()))
    return name != "/exit"


def _parse_setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"/set {text}: expected name=value, such as /set do_sample=true temperature=0.7")
    with suppress(ValueError):  # else it is a text, such as never
        return name, json.loads(value)
    return name, value


def _describe(conversation: Conversation) -> str:
    settings, most = conversation.settings, conversation.bundle.format.task.answer_length
    others = {name: value for name, value in settings.items() if name != "max_new_tokens"}
    strategy = " ".join(f"{name}={as_typed(value)}" for name, value in others.items()) or "greedy decoding"
    return f"{strategy}, answers of at most {most} tokens"
