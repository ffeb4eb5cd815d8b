#!/usr/bin/env bash
# Makes .peer, an environment with PyTorch (for CPUs) and diffusers, which the tests compare with. It is apart from
# .venv because diffusers wants a later huggingface_hub than mindone can use.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/environment.sh '[dev]'

stamp="$(cat tests/programs/peer_requirements.txt tests/programs/client_requirements.txt scripts/peer.sh)"
if [ "$(cat .peer/installed 2>/dev/null)" != "$stamp" ]; then
    echo "making .peer with PyTorch and diffusers (a few minutes the first time)"
    .venv/bin/python -m venv .peer
    .peer/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/programs/peer_requirements.txt
    # Apart from the rest: torchvision's operators want the PyTorch for GPUs, and diffusers stumbles over it. Only the
    # networks that it describes in Python are used, by pytorch-fid.
    .peer/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .peer/extra \
        torchvision==0.28.0 pytorch-fid==0.3.0
    # For .venv, whose tests find them by tests/conftest.py.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .peer/clients \
        --requirement tests/programs/client_requirements.txt
    printf '%s' "$stamp" >.peer/installed
fi
