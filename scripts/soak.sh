#!/usr/bin/env bash
# A run of two ranks, killed, stopped, frozen, cut off and short of disk at random, again and again: at the end it must
# have the same bits as an undisturbed one. Prints the seed, the faults of each kind, and the seconds to the next step.
#   bash scripts/soak.sh                  for two hours
#   bash scripts/soak.sh 600 --seed 1     for ten minutes; other arguments go to tests/programs/soak.py
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || . scripts/environment.sh '[dev]'

PYTHONPATH="$PWD" exec .venv/bin/python tests/programs/soak.py --seconds "${1:-7200}" "${@:2}"
