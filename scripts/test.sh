#!/usr/bin/env bash
# Everything that must hold before a commit: style, types, tests. Arguments go to pytest; --all runs the slow tests too.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/environment.sh '[dev]'

.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/python -m pytest "$@"
