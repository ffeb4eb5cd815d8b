#!/usr/bin/env bash
# Everything that must hold before a commit: style, types, tests. Arguments go to pytest; --all runs the slow tests too.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/peer.sh  # makes .venv too

.venv/bin/ruff check .
.venv/bin/mypy
# Two at a time: most tests wait for one process that compiles on one core. A file's tests share what they have made.
# The order is that of tests/conftest.py, long files first; pytest-xdist's own starts with the files of most tests.
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
