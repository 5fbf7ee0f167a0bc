#!/usr/bin/env bash
# The paper's three stages (arXiv 2402.03216v4) from XLM-RoBERTa-large in BGE-M3 layout; the settings are those of
# train/recipes/paper-*.yaml, which say what the paper leaves open. The paper had 32, 96 and 24 GPUs for them: LAUNCH starts
# the processes of one machine, on several give torchrun its --nnodes and --rdzv options. Start it again after an
# interruption: each stage resumes at its last checkpoint.
#   MODEL=build/xlmr-large TEXTS=texts.jsonl PAIRS=pairs.jsonl ROWS=rows.jsonl runs/paper.sh
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-build/paper}
LAUNCH=${LAUNCH:-torchrun --nproc_per_node 8}

stage() { # stage NAME MODEL DATA: LAST is the checkpoint of its end
  $LAUNCH -m train "$1" --config "train/recipes/paper-$1.yaml" --model "$2" --data "$3" --out "$OUT/$1" --resume true
  LAST=$(printf '%s\n' "$OUT/$1"/step-* | tail -n 1)
}

stage retromae "$MODEL" "$TEXTS" # {"text"}
stage pretrain "$LAST" "$PAIRS"  # {"query", "pos"}
warm=$LAST
# Hard negatives for stage 2, found by the model of stage 1 (the paper samples them as ANCE does).
[ -e "$OUT/rows.jsonl" ] || python -m train mine --model "$warm" --data "$ROWS" --out "$OUT/rows.jsonl" --negatives 7
stage finetune "$warm" "$OUT/rows.jsonl" # {"query", "pos", "neg"}
[ -e "$OUT/bundle" ] || python -m onnx_export "$LAST" "$OUT/bundle" --precision fp16
echo "$OUT/bundle"
