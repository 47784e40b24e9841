#!/usr/bin/env bash
# The newcomer's one command.
#   ./run_pretrain.sh                                    tiny BERT from scratch, then its report on the sample tasks
#   ./run_pretrain.sh bert --recipe tiny --data TEXT --output_dir runs/mine    any options of run_pretrain.py
#   ./run_pretrain.sh --num_gpus 4 -- bert ...           launcher options first, then `--`
# It makes .venv at its first call (see make_venv.sh for PYTHON and TORCH_INDEX_URL).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bash "$root/make_venv.sh"
python=$root/.venv/bin/python
export PATH=$root/.venv/bin:$PATH PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

launcher=()
for word in "$@"; do
    if [ "$word" = -- ]; then
        while [ "$1" != -- ]; do launcher+=("$1"); shift; done
        shift
        break
    fi
done

# A free port, so that two runs on one machine do not meet; the number of GPUs; and how many GLUE runs at a time.
read -r port gpus jobs < <("$python" -c '
import os, socket, torch
listener = socket.socket(); listener.bind(("127.0.0.1", 0))
gpus = torch.cuda.device_count()
print(listener.getsockname()[1], gpus, gpus or min(4, os.cpu_count()))')
if [ "$gpus" = 0 ]; then
    export DS_ACCELERATOR=cpu
    # Without a GPU the launcher would start one rank for each NUMA node.
    [[ " ${launcher[*]-} " == *" --num_gpus"* ]] || launcher=(--num_gpus 2 ${launcher[@]+"${launcher[@]}"})
fi
launch() { deepspeed --quiet --master_port "$port" ${launcher[@]+"${launcher[@]}"} "$root/run_pretrain.py" "$@"; }

if [ $# -gt 0 ]; then
    launch "$@"
    exit
fi

run=runs/tiny
launch bert --recipe tiny --optim adan --deepspeed "$root/ds_configs/zero2.json" --output_dir "$run" --resume auto
"$python" -m glue_eval --model "$run" --data sample --tasks all --optim adan --seeds 1 --jobs "$jobs" --output_dir "$run/glue"
echo
echo "model:  $run (load it with transformers: AutoModelForMaskedLM.from_pretrained(\"$run\"))"
echo "report: $run/glue/report.html, $run/glue/report.md"
echo "next:   ./run_pretrain.sh bert --recipe tiny --data YOUR_TEXT_FOLDER --output_dir runs/mine"
