# Sourced by the other scripts: makes .venv with the package in it, and installs anew when setup.py has changed.
# Usage: . scripts/environment.sh [EXTRAS]      for example: . scripts/environment.sh '[dev]'

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.10, 3.11 or 3.12 is needed, with its venv module; set PYTHON to one" >&2
    return 1
}

make_environment() {
    local extras="$1" stamp python
    stamp="$(cat setup.py pyproject.toml) $extras"
    if [ -x .venv/bin/mindone-ddpm ] && [ "$(cat .venv/installed 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        python="$(find_python)" || return 1
        echo "making .venv with $("$python" --version)"
        "$python" -m venv .venv || return 1
    fi
    echo "installing the package and what it needs (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras" || return 1
    printf '%s' "$stamp" >.venv/installed
}

make_environment "${1:-}" || exit 1
