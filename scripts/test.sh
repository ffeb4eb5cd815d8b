#!/usr/bin/env bash
# Everything that must hold before a commit: style, types, tests. Arguments go to pytest; --all runs the slow tests too.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/peer.sh  # makes .venv too

.venv/bin/ruff check .
.venv/bin/mypy
# Two at a time: most tests wait for one process that compiles on one core. A file's tests share what they have made.
# The order is that of tests/conftest.py, long files first; pytest-xdist's own starts with the files of most tests.
# A test that hangs is ended together with its worker, and named; the longest takes two minutes, of the slow ones an hour.
limit_s=500
[[ " $* " == *" --all "* ]] && limit_s=7200
.venv/bin/python -m pytest -o faulthandler_timeout="$limit_s" -o faulthandler_exit_on_timeout=true \
    --max-worker-restart 2 -n 2 --dist loadfile --no-loadscope-reorder "$@"
