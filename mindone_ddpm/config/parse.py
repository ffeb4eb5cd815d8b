"""From a command line and a YAML file to a configuration, and back."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.fields import as_dict, fields_as_shown, heading_of, is_list, value_types


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and which name was meant; exit status 2."""

    def error(self, message: str) -> NoReturn:
        found = re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if found:
            known = re.findall(r"[\w-]+", found[3])
            if found[1].startswith("-"):
                message = f"{found[1]} {found[2]}: must be one of {', '.join(known)}"
            else:
                message = f"{found[2]}: unknown command{did_you_mean(found[2], known)}"
        self.exit(2, f"error: {message.removeprefix('argument ')}\n")

    def parse_all(self, arguments: Sequence[str] | None, parser_of: Callable[[Any], argparse.ArgumentParser]) -> Any:
        """Parse; an unknown flag names the nearest one of the command's own parser."""
        parsed, rest = self.parse_known_args(arguments)
        unknown = [word for word in rest if word.startswith("-")] or rest
        if unknown:
            known = [name for name in parser_of(parsed)._option_string_actions if name.startswith("--")]
            lines = []
            for word in unknown:
                flag = word.split("=")[0]
                what = "unknown option" if word.startswith("-") else "belongs to no option"
                lines.append(f"error: {flag}: {what}{did_you_mean(flag, known)}\n")
            self.exit(2, "".join(lines))
        return parsed


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` with the nearest known names, or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def add_arguments(parser: argparse.ArgumentParser, config_class: type) -> None:
    """One flag for each field, with its aliases, under the heading of its group.

    A flag that is not given leaves no trace in the result.
    """
    plain_types = value_types(config_class)
    parser.add_argument(
        "--config", metavar="FILE", default=None, help="YAML file with any of these settings; flags win"
    )
    groups: dict[str, Any] = {}
    for item in fields_as_shown(config_class):
        heading = heading_of(config_class, item.name)
        group = groups.get(heading) or groups.setdefault(heading, parser.add_argument_group(heading))
        plain, _ = plain_types[item.name]
        names = [f"--{name}" for name in (item.name, *item.metadata["aliases"])]
        text = item.metadata["help"].replace("%", "%%")
        if item.default not in (None, ""):
            text += f" (default: {item.default})"
        options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text}
        if plain is bool:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, **options)
        else:
            if is_list(plain):
                options |= {"nargs": "+", "action": "extend"}
            metavar = "|".join(item.metadata["choices"]) or ("TEXT" if is_list(plain) else plain.__name__.upper())
            group.add_argument(*names, metavar=metavar, **options)


def from_arguments(config_class: type, arguments: argparse.Namespace, defaults: dict[str, Any] | None = None) -> Any:
    """Build a configuration: defaults (``defaults`` before the class's own), then the YAML file, then the flags.

    Raises:
        ConfigError: with every unknown name and every value of the wrong type.
    """
    given = {
        item.name: getattr(arguments, item.name)
        for item in dataclasses.fields(config_class)
        if hasattr(arguments, item.name)
    }
    problems: list[str] = []
    values = read_yaml(arguments.config, config_class, problems) if getattr(arguments, "config", None) else {}
    values.update(given)
    defaults = dict(defaults or {})
    if {"model_config_name_or_path", "pretrained_model_name_or_path"} & set(values):
        defaults.pop("preset", None)
    return from_dict(config_class, {**defaults, **values}, problems)


def read_yaml(path: str, config_class: type, problems: list[str]) -> dict[str, Any]:
    """Settings from a YAML file, by field name or alias; what is wrong goes into ``problems``."""
    from mindone_ddpm.common.yaml_files import read_yaml as content_of  # here, because --help has no use for it

    try:
        content = content_of(Path(path))
    except OSError as error:
        problems.append(f"--config {path}: cannot be read ({error.strerror})")
        return {}
    except ValueError as error:
        problems.append(f"--config {path}: {error}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"--config {path}: must hold 'name: value' lines")
        return {}
    names = {}
    for item in dataclasses.fields(config_class):
        names.update({alias: item.name for alias in (item.name, *item.metadata["aliases"])})
    values = {}
    for key, value in content.items():
        if key in names:
            values[names[key]] = value
        else:
            problems.append(f"--config {path}: unknown setting '{key!s:.100}'{did_you_mean(str(key)[:100], names)}")
    return values


def from_dict(config_class: type, values: dict[str, Any], problems: list[str] | None = None) -> Any:
    """Build a configuration from values that may still be text, each converted to its field's type.

    Raises:
        ConfigError: listing ``problems`` and every value that does not convert.
    """
    problems = [] if problems is None else problems
    plain_types = value_types(config_class)
    converted = {}
    for name, value in values.items():
        plain, optional = plain_types[name]
        try:
            converted[name] = _convert(value, plain, optional)
        except (ValueError, TypeError, OverflowError):
            wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(plain, "text")
            problems.append(f"--{name} {value!s:.100}: must be {wanted}")
    if problems:
        raise ConfigError(*problems)
    return config_class(**converted)


def _convert(value: Any, plain: type, optional: bool) -> Any:
    if value is None or (optional and isinstance(value, str) and value.lower() in ("none", "null")):
        if optional:
            return None
        raise ValueError
    if is_list(plain):
        return [_convert(entry, str, False) for entry in (value if isinstance(value, list) else [value])]
    if isinstance(value, (list, dict)):
        raise ValueError
    if plain is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "1", "yes", "false", "0", "no"):
            return str(value).lower() in ("true", "1", "yes")
        raise ValueError
    if plain is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if plain is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    return str(value)


COMMAND_LINE = re.compile(r"# mindone-ddpm (\S+)")


def to_yaml(config: Any, command: str | None = None) -> str:
    """A configuration as a file that ``--config`` takes. A comment in the first line names the command, if given."""
    import yaml

    text = yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)
    return text if command is None else f"# mindone-ddpm {command}\n{text}"


def command_in(text: str) -> str | None:
    """The command that :func:`to_yaml` has named in a file's text; None where it names none."""
    found = COMMAND_LINE.match(text)
    return found[1] if found else None
