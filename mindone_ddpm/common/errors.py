"""Errors whose message is for the user. Free of numpy and MindSpore, so that ``--help`` answers at once."""

from __future__ import annotations


class UserError(Exception):
    """An error that a user can correct: the message is for them, one line for each problem."""

    exit_status = 1
    prefix = "error: "


class ConfigError(UserError):
    """One or more settings are wrong. ``problems`` holds one line for each."""

    exit_status = 2

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
