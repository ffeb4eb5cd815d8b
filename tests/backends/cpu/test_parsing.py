"""Sources as MindSpore's compiler is given them: every node where asttokens has it."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap

import asttokens
import pytest
from conftest import NEEDS_ONEDNN_3

from mindone_ddpm.backends.cpu import operators, parsing


def example(self, x, *others, scale=1.0):
    """A docstring."""
    for place in range(3):
        if x is None and (place > 1 or scale != 2.0):
            x = [value * scale for value in others if value]
        elif not x:
            x, *rest = others[place], lambda value: value + "ü"
            x += rest
    with open(x) as file:
        file.read()[1:]
    return x if x else {"a": x, **self}


@pytest.mark.parametrize("function", [example, operators.attention_construct, operators.conv2d_construct])
def test_nodes_are_where_asttokens_has_them(function):
    source = textwrap.dedent(inspect.getsource(function))
    found, expected = parsing.ParsedSource(source), asttokens.ASTTokens(source, parse=True)
    assert ast.dump(found.tree) == ast.dump(expected.tree)
    compared = 0
    for node, other in zip(ast.walk(found.tree), ast.walk(expected.tree), strict=True):
        # Parentheses around an expression count to it there.
        if isinstance(node, ast.expr | ast.stmt) and not source.splitlines()[node.lineno - 1].count("("):
            assert node.first_token.start == other.first_token.start
            assert node.last_token.end == other.last_token.end
            # asttokens fills up the first line of a statement of several with blanks.
            assert found.get_text(node) == expected.get_text(other, padded=False)
            compared += 1
    assert compared > 3


@NEEDS_ONEDNN_3
def test_mindspore_parses_by_it():
    parsers = [sys.modules[name] for name in parsing.PARSERS if name in sys.modules]
    assert parsers and all(parser.asttokens.ASTTokens is parsing.ParsedSource for parser in parsers)
