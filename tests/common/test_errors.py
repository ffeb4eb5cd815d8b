"""Messages: one line that a terminal shows as it is, whatever names and values of strangers are in it."""

from __future__ import annotations

import pytest

from mindone_ddpm.common.errors import (
    MOST_CHARACTERS,
    ConfigError,
    ModelError,
    UserError,
    computing_networks,
    printable,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb.png", r"a\nb.png"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb", r"a\u202eb"),  # which turns what follows around
        ("a\udcffb", r"a\udcffb"),  # a name that is not UTF-8
        ("Grüße 画像 😀", "Grüße 画像 😀"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text, shown):
    assert printable(text) == str(UserError(text)) == str(ConfigError(text)) == shown


def test_lines_are_of_limited_length_and_one_for_each_problem():
    error = ConfigError("--a " + "x" * 10**6 + " end", "--b\nc: y")
    first, second = str(error).split("\n")
    assert len(first) < MOST_CHARACTERS and first.startswith("--a xxx") and first.endswith("x end")
    assert second == r"--b\nc: y" and error.problems == [first, second]


def test_what_networks_raise_becomes_one_line():
    for error in (ValueError("a\nb"), KeyError("a"), RuntimeError("----\nshapes differ\n----")):
        with pytest.raises(ModelError, match="the model's networks do not go together"), computing_networks():
            raise error
    for error in (RuntimeError("out of memory"), ConfigError("--a: x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), computing_networks():
            raise error
