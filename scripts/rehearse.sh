#!/usr/bin/env bash
# Trains, resumes and samples on MindSpore's Ascend backend with a stand-in for CANN, and compares with the CPU.
#   bash scripts/rehearse.sh [--list] [--folder FOLDER] [CASE ...]
set -euo pipefail
cd "$(dirname "$0")/.."

exec .venv/bin/python tests/standin/rehearsal.py "$@"
