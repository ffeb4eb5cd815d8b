#!/usr/bin/env python3
"""Write docs/cli.md from the parser of the command line; a test compares the two.

python scripts/cli_reference.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

HEADER = """# Command line

`mindone-ddpm COMMAND [flags]`, or `python -m mindone_ddpm COMMAND [flags]`. `--config FILE` takes a YAML file with any
of a command's settings, by the names of their flags; flags win. Exit status: 0 when all went well, 2 for wrong use, 1
for a failure, 130 and 143 when stopped by Ctrl-C and SIGTERM.

This page is written by `python scripts/cli_reference.py`.
"""


def flag_names(action: argparse.Action) -> str:
    """``--mode graph|pynative``; of a switch that can be turned off, only the side that turns it on."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    names = list(action.option_strings)
    if isinstance(action, argparse.BooleanOptionalAction):
        names = [name for name in names if not name.startswith("--no-")]
    value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
    return ", ".join([*(f"`{name}`" for name in names[:-1]), f"`{names[-1]}{value}`"])


def tables(parser: argparse.ArgumentParser) -> list[str]:
    """A table for each group of flags, under its heading."""
    lines = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        if group.title not in ("options", "positional arguments"):
            lines += [f"### {group.title[:1].upper()}{group.title[1:]}", ""]
        lines += ["| flag | meaning |", "|---|---|"]
        for action in actions:
            cells = (flag_names(action), (action.help or "").replace("%%", "%"))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return lines


def reference() -> str:
    from mindone_ddpm.cli import make_parser

    commands = next(action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    parts = [HEADER]
    for entry in commands._choices_actions:
        parser = commands.choices[entry.dest]
        summary = entry.help or ""
        lines = [f"## {entry.dest}", "", f"{summary[:1].upper()}{summary[1:]}.", "", *tables(parser)]
        parts.append("\n".join(lines))
    return "\n".join(parts)


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(reference(), encoding="utf-8")
