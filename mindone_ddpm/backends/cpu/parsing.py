"""A faster parser for MindSpore's compiler of Python functions.

MindSpore parses with asttokens, which reads each function a second time to give every node its tokens. All that is used
of them is where a node begins and ends, for messages; and Python's own parser says that too.
"""

from __future__ import annotations

import ast
import sys
import types
from typing import NamedTuple

# Where MindSpore has its parser, by version.
PARSERS = ("mindspore.graph._parse.parser", "mindspore._extends.parse.parser")


class Token(NamedTuple):
    """Places in the source: (line, from 1; column, from 0)."""

    start: tuple[int, int]
    end: tuple[int, int]


class ParsedSource:
    """What MindSpore uses of ``asttokens.ASTTokens``: ``tree``, whose nodes have ``first_token`` and ``last_token``.

    Raises:
        SyntaxError: as ``ast.parse``.
    """

    def __init__(self, source_text: str, parse: bool = True):
        self.text = source_text
        self.tree = ast.parse(source_text)
        # Python counts columns in bytes of UTF-8.
        lines = None if source_text.isascii() else [line.encode() for line in source_text.split("\n")]

        def place(line: int, column: int) -> tuple[int, int]:
            return line, column if lines is None else len(lines[line - 1][:column].decode())

        for node in ast.walk(self.tree):
            if isinstance(node, ast.expr | ast.stmt | ast.arg | ast.keyword):
                last = place(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
                whole = Token(place(node.lineno, node.col_offset), last)
                node.first_token = node.last_token = whole  # type: ignore[union-attr]

    def get_text(self, node: ast.AST) -> str:
        """The source of a node; nothing for one that has no place of its own."""
        return ast.get_source_segment(self.text, node) or ""


def install() -> None:
    """Have MindSpore parse by :class:`ParsedSource`, where it has the parser that is known here."""
    for name in PARSERS:
        parser = sys.modules.get(name)
        if parser is not None and hasattr(parser, "asttokens"):
            parser.asttokens = types.SimpleNamespace(ASTTokens=ParsedSource)  # type: ignore[attr-defined]
