#!/usr/bin/env bash
# Run a command on several ranks with msrun, for example:
#   bash scripts/launch.sh -n 8 train --config run.yaml
#   bash scripts/launch.sh -n 16 --local_workers 8 --node_rank 1 --master_addr 10.0.0.1 train --config run.yaml
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
for program in "$here/.venv/bin/mindone-ddpm" "$(command -v mindone-ddpm || true)"; do
    if [ -x "$program" ]; then
        exec "$program" launch "$@"
    fi
done
echo "error: mindone-ddpm is not installed; run scripts/quickstart.sh, or pip install ." >&2
exit 1
