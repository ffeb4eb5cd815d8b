"""YAML files of settings, perhaps a stranger's: plain values, lists and tables of them, in a file of limited size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mindone_ddpm.common.files import read_limited

MOST_BYTES = 1 << 20
MOST_LEVELS = 20


class _SettingsLoader(yaml.SafeLoader):
    """Takes no aliases, which can stand for gigabytes, limits nesting, and leaves dates as the text that they are."""

    def __init__(self, text: str):
        super().__init__(text)
        self.level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=mark)
        if self.level >= MOST_LEVELS:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_LEVELS} levels of lists", problem_mark=mark)
        self.level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


_SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, no regular file, or no YAML of settings; the message completes "FILE: ...".
    """
    content = read_limited(path, MOST_BYTES)
    try:
        return yaml.load(content.decode("utf-8"), _SettingsLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"is not YAML ({error.problem}{where})") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an integer of thousands of digits, say
        raise ValueError(f"is not YAML ({str(error).splitlines()[0]:.200})") from error
