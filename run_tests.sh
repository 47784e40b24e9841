#!/usr/bin/env bash
# Makes .venv if it is missing, then checks style, types and behaviour. Words after it go to pytest (`-n 0`: one process).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash make_venv.sh --test
export PATH=$PWD/.venv/bin:$PATH HF_HUB_OFFLINE=1 DS_ACCELERATOR=${DS_ACCELERATOR:-cpu} CUDA_VISIBLE_DEVICES=
ruff check .
ruff format --check .
mypy
# Two processes of one thread each; a file's tests stay together, for they share what they have started.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m pytest --numprocesses 2 --dist loadfile "$@"
