"""Configuration: dataclasses that become the command line, a YAML file and the run's own record.

Never imports MindSpore, so that ``--help`` answers at once. A field's ``metadata`` holds its help text, the other
names by which the published scripts know it, and what it may be; :func:`validate` reports every problem together.
"""

from __future__ import annotations


class UserError(Exception):
    """What a user can mend: the message is for them, a line for each thing that is wrong."""

    exit_status = 1
    prefix = "error: "


class ConfigError(UserError):
    """One or more settings are wrong. ``problems`` holds one line for each."""

    exit_status = 2

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def first_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
