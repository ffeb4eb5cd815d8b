#!/usr/bin/env bash
# Runs the core of the tests with each version of MindSpore, and prints a table of the results.
#   bash scripts/versions.sh                     with all of them
#   bash scripts/versions.sh 2.7.1 2.9.0         with these
#   TESTS=tests/backends bash scripts/versions.sh 2.7.1
# Each version has an environment of its own in VERSIONS_DIR (default: ~/.cache/mindone_ddpm/versions), with all other
# packages as in .venv; made the first time, 1 to 2 minutes and 3 GB each. The tests' output is there too, VERSION.log.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || . scripts/environment.sh '[dev]'

versions=("$@")
[ $# -gt 0 ] || versions=(2.7.1 2.8.0 2.9.0 2.10.0)
folder="${VERSIONS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mindone_ddpm/versions}"
mkdir -p "$folder"
core="tests/backends tests/common tests/sampling/test_sampling.py"
for name in flat_weights limits trace; do core+=" tests/standin/test_$name.py"; done
for name in step optimizers ema trainer checkpoint; do core+=" tests/training/test_$name.py"; done
read -r -a tests <<<"${TESTS:-$core}"

make_environment_of() {
    local version="$1" stamp
    stamp="$(cat setup.py scripts/versions.sh)"
    [ "$(cat "$folder/$version/installed" 2>/dev/null)" != "$stamp" ] || return 0
    echo "making the environment for MindSpore $version"
    [ -x "$folder/$version/bin/python" ] || .venv/bin/python -m venv "$folder/$version" || return 1
    .venv/bin/python -m pip freeze | grep -E '^[A-Za-z0-9_.-]+==' | grep -v '^mindspore==' >"$folder/$version/constraints"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$folder/$version/constraints" "mindspore==$version" --editable . pytest hypothesis tensorboard ||
        return 1
    printf '%s' "$stamp" >"$folder/$version/installed"
}

for version in "${versions[@]}"; do
    log="$folder/$version.log"
    if make_environment_of "$version" >"$log" 2>&1; then
        PYTHONPATH="$PWD" MINDONE_DDPM_CACHE="$folder/$version/cache" \
            "$folder/$version/bin/python" -m pytest -p no:cacheprovider "${tests[@]}" >>"$log" 2>&1 || true
    fi
done

status=0
printf '%-10s %s\n' MindSpore result
for version in "${versions[@]}"; do
    result="$(grep -E '^(=+ )?[0-9]+ (passed|failed|error)' "$folder/$version.log" | tail -1 | tr -d '=' || true)"
    printf '%-10s %s\n' "$version" "${result:-did not run; see $folder/$version.log}"
    grep -E '^(FAILED|ERROR) ' "$folder/$version.log" | cut -c1-120 | sed 's/^/           /' || true
    case "$result" in *passed*) case "$result" in *failed* | *error*) status=1 ;; esac ;; *) status=1 ;; esac
done
exit $status
