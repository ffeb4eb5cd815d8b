"""What one setting says of itself, and what every configuration can do.

Never imports MindSpore or NumPy: ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mindone_ddpm.common.errors import ConfigError

LARGEST = 2**31 - 1  # of whole numbers that have no limit of their own
RESUME_KINDS = ("locked", "report", "free")


def setting(
    default: Any,
    help: str,
    *,
    aliases: Sequence[str] = (),
    choices: Sequence[str] = (),
    several: bool = False,
    secret: bool = False,
    private: bool = False,
    resume: str = "free",
    outside_graph: bool = False,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field, with all that the rest of the program must know of it.

    Args:
        aliases: other names of the flag.
        choices: the values allowed; with ``several``, more than one may be given, with commas between them.
        secret: never written anywhere.
        private: a place on this machine or an account: not written into a model card.
        resume: ``locked``: a resumed run must have the value that it had; ``report``: a change is shown; ``free``.
        outside_graph: leaves no trace in the compiled step.
        low, high: the smallest and the largest value allowed; ``above``: a value that must be exceeded.
    """
    assert resume in RESUME_KINDS
    metadata = {"help": help, "aliases": tuple(aliases), "choices": tuple(choices), "several": several}
    metadata |= {"secret": secret, "private": private, "resume": resume, "outside_graph": outside_graph}
    return field(default=default, metadata={**metadata, "low": low, "high": high, "above": above})


@dataclass
class Settings:
    """Base of every group of settings and of every configuration.

    A class may define ``own_problems``: one line for each thing that is wrong with the settings that it declares.
    """

    heading: ClassVar[str] = "options"  # above the group's flags in the help
    shown_last: ClassVar[bool] = False  # in the help, after the groups that are not; of the class itself

    def problems(self) -> list[str]:
        """Everything that is wrong with the settings, as far as that can be known without data and MindSpore."""
        found = check_fields(self)
        for cls in reversed(type(self).__mro__):
            if "own_problems" in vars(cls):
                found += vars(cls)["own_problems"](self)
        return found

    def check(self) -> None:
        """Raises ConfigError with all problems at once."""
        problems = self.problems()
        if problems:
            raise ConfigError(*problems)

    def not_default(self, names: Iterable[str]) -> list[str]:
        """Those of the settings with these names that have another value than their default."""
        return [name for name in names if getattr(self, name) != getattr(type(self), name)]


def settings_by_resume(config_class: type, kind: str) -> tuple[str, ...]:
    """The names of the settings whose change on resume is ``locked``, in a ``report``, or ``free``."""
    return tuple(item.name for item in fields_of(config_class) if item.metadata["resume"] == kind)


def settings_outside_graph(config_class: type) -> frozenset[str]:
    """The names of the settings that leave no trace in the compiled step."""
    return frozenset(item.name for item in fields_of(config_class) if item.metadata["outside_graph"])


def private_settings(config_class: type) -> frozenset[str]:
    """The names of the settings that say where a run is or whose it is."""
    return frozenset(item.name for item in fields_of(config_class) if item.metadata["private"])


def fields_of(config_class: type) -> Sequence[dataclasses.Field]:
    return dataclasses.fields(config_class)


def group_of(config_class: type, name: str) -> type[Settings]:
    """The group that first declares a setting."""
    for cls in reversed(config_class.__mro__):
        if name in vars(cls).get("__annotations__", {}) and "heading" in vars(cls):
            return cls
    return Settings


def heading_of(config_class: type, name: str) -> str:
    """The heading of the group that first declares a setting."""
    return group_of(config_class, name).heading


def fields_as_shown(config_class: type) -> Sequence[dataclasses.Field]:
    """The fields of a configuration in the order of the help."""

    def is_last(item: dataclasses.Field) -> bool:
        return vars(group_of(config_class, item.name)).get("shown_last", False)  # what inherits from a group is not

    return sorted(fields_of(config_class), key=is_last)


def value_types(config_class: type) -> dict[str, tuple[type, bool]]:
    """For each field of a configuration: its plain type, and whether it may be None."""
    result = {}
    hints = typing.get_type_hints(config_class)
    for name, annotation in ((item.name, hints[item.name]) for item in fields_of(config_class)):
        if isinstance(annotation, types.UnionType):
            plain = next(option for option in typing.get_args(annotation) if option is not type(None))
            result[name] = (plain, True)
        else:
            result[name] = (annotation, False)
    return result


def is_list(plain: type) -> bool:
    return typing.get_origin(plain) is list


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration's settings, without the secret ones."""
    shown = fields_as_shown(type(config))
    return {item.name: getattr(config, item.name) for item in shown if not item.metadata["secret"]}


def changed_settings(config_class: type | None, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's settings that differ from the defaults, and those that do not.

    Args:
        config_class: None where it is not known: all count as changed.
        settings: that a run has recorded; those of other versions count as changed.
    """
    defaults = {} if config_class is None else {item.name: item.default for item in fields_of(config_class)}
    unknown = object()
    changed = {name: value for name, value in settings.items() if defaults.get(name, unknown) != value}
    return changed, {name: value for name, value in settings.items() if name not in changed}


def check_fields(config: Any) -> list[str]:
    """Problems that one field shows by itself: choices, bounds, not-a-number."""
    problems = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value is None:
            continue
        choices, low, high, above = (item.metadata[key] for key in ("choices", "low", "high", "above"))
        if value in ("", []) and item.default != "":
            problems.append(f"--{item.name}: must not be empty")
        elif choices and not set(value.split(",") if item.metadata["several"] else [value]) <= set(choices):
            problems.append(f"--{item.name} {value}: must be one of {', '.join(choices)}")
        if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
            problems.append(f"--{item.name} {value}: must be a finite number")
        elif low is not None and value < low:
            problems.append(f"--{item.name} {value}: must be at least {low}")
        elif isinstance(value, int) and high is None and value > LARGEST:
            problems.append(f"--{item.name} {value!s:.100}: must be at most {LARGEST:,}")
        elif high is not None and value > high:
            problems.append(f"--{item.name} {value}: must be at most {high}")
        elif above is not None and value <= above:
            problems.append(f"--{item.name} {value}: must be above {above}")
    return problems
