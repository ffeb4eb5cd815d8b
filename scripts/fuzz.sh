#!/usr/bin/env bash
# Gives damaged files to all that reads files of strangers, and says what was neither read nor refused in one line.
#   bash scripts/fuzz.sh                  for an hour
#   bash scripts/fuzz.sh 600 --seed 1     for ten minutes; other arguments go to tests/fuzz/fuzz.py
# Inputs that went wrong are kept in fuzz-faults/; `python tests/fuzz/fuzz.py --again fuzz-faults/*` reads them again.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || . scripts/environment.sh '[dev]'

PYTHONPATH="$PWD" PYTHONWARNINGS=ignore exec .venv/bin/python tests/fuzz/fuzz.py --seconds "${1:-3600}" "${@:2}"
