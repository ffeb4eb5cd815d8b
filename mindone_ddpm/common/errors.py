"""Errors whose message is for the user. Free of numpy and MindSpore, so that ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

# MindSpore frames the parts of a message: rules of hyphens, and headings such as "- Kernel error:".
FRAME = re.compile(r"-{3,}|--? .+:( \(.*\))?")


MOST_CHARACTERS = 1000  # of a line: names and values in it may be a stranger's


def printable(text: str) -> str:
    """A text as one line of limited length that a terminal shows as it is: other characters are escaped."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS - 300]} ... {text[-200:]}"
    if text.isprintable():
        return text
    spaces = "\u00a0\u3000"  # which do not count as printable
    return "".join(c if c.isprintable() or c in spaces else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """An error that a user can correct: the message is for them, one line; see :func:`printable`."""

    prefix = "error: "

    def __init__(self, message: str):
        super().__init__(printable(message))

    def exit_status(self) -> int:
        """Of the program: 2 for wrong use, where every line begins with the flag that is wrong; else 1."""
        lines = str(self).splitlines()
        return 2 if lines and all(line.startswith("--") for line in lines) else 1


class ConfigError(UserError):
    """One or more settings are wrong. ``problems`` holds one line for each."""

    def __init__(self, *problems: str):
        self.problems = [printable(problem) for problem in problems]
        Exception.__init__(self, "\n".join(self.problems))

    def exit_status(self) -> int:
        return 2


def plain_lines(text: str) -> list[str]:
    """The lines of a message or log that say something: without empty ones and without MindSpore's frames."""
    lines = (line.strip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line and not FRAME.fullmatch(line)]


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for a message of ours."""
    lines = plain_lines(str(error))
    return lines[0] if lines else type(error).__name__


def device_failure(error: RuntimeError) -> str | None:
    """MindSpore's and CANN's messages, in one line, when an operator has failed on an NPU; None for other errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    headings = [number for number, line in enumerate(lines) if line.startswith("- ") and line.endswith((":", ")"))]
    place = next((number for number in headings if lines[number] == "- Ascend Error Message:"), None)
    if place is None:
        return None
    said = next((line for number, line in enumerate(lines[:place]) if number not in headings), "an operator failed")
    return f"{said}: {lines[place + 1]}" if place + 1 < len(lines) else said


class ModelError(UserError):
    """A model's networks cannot be computed; the message is one line for the user."""


@contextlib.contextmanager
def computing_networks() -> Iterator[None]:
    """Networks of a pipeline, perhaps a stranger's, compute inside: what they raise becomes a ModelError.

    Settings of a network can be good each by itself, fit its weights, and still not go together.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        if is_out_of_memory(error) or (isinstance(error, RuntimeError) and device_failure(error) is not None):
            raise
        raise ModelError(f"the model's networks do not go together ({first_line(error)})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python's, NumPy's or MindSpore's error says that memory could not be had."""
    text = str(error).lower()
    said = ("allocate memory failed", "malloc memory failed", "memory not enough", "out of memory", "malloc failed")
    return isinstance(error, MemoryError) or any(part in text for part in said)
