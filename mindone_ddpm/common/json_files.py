"""JSON files, perhaps a stranger's: of limited size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindone_ddpm.common.errors import first_line
from mindone_ddpm.common.files import read_limited

MOST_BYTES = 50 << 20  # a tokenizer's table of merges takes a few MB


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pipe or a device, too large, or no JSON; the message completes "FILE: ...".
    """
    content = read_limited(path, most_bytes)
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("is not JSON (nested too deep)") from error
    except ValueError as error:
        raise ValueError(f"is not JSON ({first_line(error):.200})") from error


def read_table(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object that a file holds. Raises what :func:`read_json` does."""
    content = read_json(path, most_bytes)
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not an object")
    return content
