#!/usr/bin/env bash
# Makes .venv beside this file with the packages of requirements.lock, once; with --test those of requirements-test.lock
# too. Nothing is compiled, byte code neither: that halves the time, and the first import makes up for what it needs.
#   PYTHON=python3.12        the interpreter to start from (3.11 or newer)
#   TORCH_INDEX_URL=URL      another index to take torch from, such as PyTorch's own for machines without a GPU
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
locks=(requirements.lock)
if [ "${1:-}" = --test ]; then locks+=(requirements-test.lock); fi

missing=()
for lock in "${locks[@]}"; do
    cmp -s "$root/$lock" "$root/.venv/.$lock" || missing+=("$lock")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
command -v "$python" >/dev/null || { echo "error: no $python found; install Python 3.11 or newer, or name one: PYTHON=/path/to/python3 $0" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: $("$python" --version) is too old; name Python 3.11 or newer: PYTHON=/path/to/python3 $0" >&2; exit 2; }
if [ ! -x "$root/.venv/bin/python" ]; then
    "$python" -m venv "$root/.venv" || { echo "error: could not make $root/.venv; on Debian and Ubuntu install python3-venv" >&2; exit 2; }
fi

export DS_BUILD_OPS=0
pip=("$root/.venv/bin/python" -m pip --disable-pip-version-check install --progress-bar off -qq --no-compile)
for lock in "${missing[@]}"; do
    echo "installing the packages of $lock into .venv (once, about a minute) ..."
    if [ "$lock" = requirements.lock ] && [ -n "${TORCH_INDEX_URL:-}" ]; then
        "${pip[@]}" --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' "$root/$lock")"
    fi
    "${pip[@]}" --only-binary :all: --no-binary deepspeed -r "$root/$lock"
    cp "$root/$lock" "$root/.venv/.$lock"
done
