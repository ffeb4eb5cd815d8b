#!/usr/bin/env python3
"""Write examples/unconditional/butterflies.ipynb from docs/tutorial.md: one text for both; a test compares them.

python scripts/notebook.py
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOURCE, NOTEBOOK = ROOT / "docs" / "tutorial.md", ROOT / "examples" / "unconditional" / "butterflies.ipynb"


def cells_of(text: str) -> list[tuple[str, str]]:
    """``markdown`` and ``code`` in turn; only blocks of Python are code."""
    parts = re.split(r"^```python\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL)
    kinds = ["markdown", "code"] * (len(parts) // 2) + ["markdown"]
    return [(kind, part.strip()) for kind, part in zip(kinds, parts, strict=True) if part.strip()]


def notebook() -> str:
    made = nbformat.v4.new_notebook()
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, (kind, text) in enumerate(cells_of(SOURCE.read_text(encoding="utf-8"))):
        if kind == "markdown":  # links to the other pages, from where the notebook lies
            text = re.sub(r"\]\((\w+\.md)\)", r"](../../docs/\1)", text)
        cell = nbformat.v4.new_code_cell(text) if kind == "code" else nbformat.v4.new_markdown_cell(text)
        cell["id"] = f"cell-{number}"  # by default a random one
        made.cells.append(cell)
    return nbformat.writes(made) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
