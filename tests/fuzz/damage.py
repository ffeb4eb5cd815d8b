"""Damage to files: of their bytes, and of the values that JSON and tables hold. All of it drawn from a generator.

``scripts/fuzz.sh`` has a generator that is seeded by the number of the input; Hypothesis has one of its own.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
PIECES = (
    *(b"", b"\0", b"\xff" * 8, b"\n" * 4, b"{", b"]" * 9, b'"', b"\x1b[31m", b"%n%s", "ü\u2028".encode()),
    *(b"\xed\xa0\x80", b"NaN", b"1e999", b"-" * 3, b"../../x", b"PNG", b"!!python/name:os.system ", b"&a [*a]"),
)
MOST_EDITS = 4


# --- bytes ---------------------------------------------------------------------------------------------------------


def damaged_bytes(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """The content of a file, cut off, changed, repeated or mixed with another file's."""
    for _ in range(rng.randint(1, MOST_EDITS)):
        content = rng.choice(BYTE_EDITS)(rng, content, other)
    return content


def _cut(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def _flip(rng: random.Random, content: bytes, other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[_place(rng, changed)] ^= 1 << rng.randint(0, 7)
    return bytes(changed)


def _number(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """A number of one, two, four or eight bytes that lengths and sizes are often compared with."""
    form = rng.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    at = _place(rng, content)
    return content[:at] + struct.pack(form, rng.choice(NUMBERS) % 256**size) + content[at + size :]


def _insert(rng: random.Random, content: bytes, other: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + rng.choice(PIECES) + content[at:]


def _remove(rng: random.Random, content: bytes, other: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + content[at + rng.randint(1, 16) :]


def _repeat(rng: random.Random, content: bytes, other: bytes) -> bytes:
    at, length = _place(rng, content), rng.randint(1, 64)
    return content[:at] + content[at : at + length] * rng.randint(2, 20) + content[at:]


def _splice(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: _place(rng, content)] + other[_place(rng, other) :]


BYTE_EDITS = (_cut, _flip, _flip, _number, _number, _insert, _remove, _repeat, _splice)


def _place(rng: random.Random, content: bytes | bytearray) -> int:
    """Anywhere; half of the time among the first bytes, which say what a file is."""
    last = max(len(content) - 1, 0)
    return rng.randint(0, min(last, 64) if rng.random() < 0.5 else last)


# --- values --------------------------------------------------------------------------------------------------------


def odd_value(rng: random.Random) -> Any:
    """A value that does not belong where it is put."""
    return copy.deepcopy(
        rng.choice(
            (
                *(None, True, False, 0, -1, 1, 3, 1.5, -0.0, 1e308, 10**6, 10**9, 10**18, 10**400, float("nan")),
                *(float("inf"), "", " ", "a", "x" * 10_000, "\0", "\n", "\x1b[31m", "../../x", "NaN", "ü", "1"),
                *([], {}, [[]], [None], [0], [-1], [1e9], ["a"], [[[[1]]]], {"a": 1}, {"": None}, [1] * 1000, [8, "b"]),
            )
        )
    )


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value inside tables and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places_in(inner, (*path, key))


def damaged_value(rng: random.Random, value: Any) -> Any:
    """Tables and lists in which some values are others, are missing, are there twice, or stand elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, MOST_EDITS)):
        places = list(places_in(value))
        if not places or rng.random() < 0.02:
            value = odd_value(rng)
            continue
        *outer, last = rng.choice(places)
        holder = _at(value, outer)
        edit = rng.randint(0, 5)
        if edit == 0:
            del holder[last]
        elif edit == 1:
            holder[last] = copy.deepcopy(_at(value, rng.choice(places)))
        elif edit == 2 and isinstance(holder[last], (int, float)):
            holder[last] = _other_number(rng, holder[last])
        elif edit == 3 and isinstance(holder, dict):
            holder[rng.choice((str(last) + "x", "", "_class_name", "auto_map", "x" * 300))] = holder.pop(last)
        elif edit == 4 and isinstance(holder, list):
            holder.insert(last, odd_value(rng))
        else:
            holder[last] = odd_value(rng)
    return value


def _other_number(rng: random.Random, number: float) -> float:
    return rng.choice((-number, number + 1, number * 2, number * 1000, number // 3, str(number)))


def _at(value: Any, path: Any) -> Any:
    for key in path:
        value = value[key]
    return value


def damaged_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON file with other values; now and then with damage to its bytes, or nested without end."""
    kind = rng.random()
    if kind < 0.2:
        return damaged_bytes(rng, content)
    if kind < 0.22:
        opening = rng.choice((b"[", b'{"a":'))
        return opening * rng.choice((10, 1000, 100_000))
    if kind < 0.24:
        return b'{"a": ' + b"9" * rng.choice((10, 4300, 4301, 100_000)) + b"}"
    return json.dumps(damaged_value(rng, json.loads(content))).encode("utf-8", "surrogatepass")


def damaged_lines(rng: random.Random, content: bytes) -> bytes:
    """Lines of JSON, of a table or of text: one or some of them changed, moved, cut or missing."""
    lines = content.split(b"\n")
    for _ in range(rng.randint(1, MOST_EDITS)):
        at = rng.randrange(len(lines))
        edit = rng.randint(0, 4)
        if edit == 0:
            lines[at] = damaged_bytes(rng, lines[at], content)
        elif edit == 1 and lines[at].startswith(b"{"):
            try:
                lines[at] = damaged_json(rng, lines[at])
            except ValueError:
                lines[at] = b""
        elif edit == 2:
            lines.insert(at, rng.choice(lines))
        elif edit == 3:
            lines[at] = lines[at] * rng.randint(0, 5)
        else:
            lines[at] = rng.choice(lines) + rng.choice(PIECES)
    return b"\n".join(lines)


def damaged_safetensors(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with another head, or damage to its bytes."""
    if rng.random() < 0.3 or len(content) < 8:
        return damaged_bytes(rng, content)
    (length,) = struct.unpack("<Q", content[:8])
    head, data = content[8 : 8 + length], content[8 + length :]
    try:
        head = damaged_json(rng, head)
    except ValueError:
        head = damaged_bytes(rng, head)
    if rng.random() < 0.2:
        data = damaged_bytes(rng, data)
    said = rng.choice(NUMBERS) % 2**64 if rng.random() < 0.1 else len(head)
    return struct.pack("<Q", said) + head + data
