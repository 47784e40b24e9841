#!/usr/bin/env bash
# Makes .venv if it is missing, then checks style, types and behaviour. Words after it go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash make_venv.sh --test
export PATH=$PWD/.venv/bin:$PATH HF_HUB_OFFLINE=1 DS_ACCELERATOR=${DS_ACCELERATOR:-cpu} CUDA_VISIBLE_DEVICES=
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
