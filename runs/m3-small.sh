#!/usr/bin/env bash
# The default model from nothing to the bundle, in the paper's order (arXiv 2402.03216v4, section 3), on CPUs or a GPU:
#   python -m benchmarks.debian && runs/m3-small.sh
# Start it again after an interruption: a training resumes at its last checkpoint, what is finished is kept. To make a
# result again, delete it and what was made from it.
#
# The model that ships today went through these steps with other budgets, without stage 1 and `aligned` (docs/log.md has
# what that gives), `tuned` in three parts of which the first saw 128 tokens, from the model that m3-small-finetune.yaml
# makes; its card (m3_vdb/models/m3-small/README.md) has the numbers. No synthetic questions were used.
#
# Ablations, each with an OUT of its own: SOURCES='[ddtp, libreoffice]' trains on two sources, HELD_OUT='[ar, fa, km, el]'
# holds languages out of stage 2; without mining, give `tuned` the data rows.jsonl; without stage 1, `warmup` the model long.
# A trial of everything: SHRINK=10 takes a tenth of the steps, and of the rows where they are limited.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-data/debian}
OUT=${OUT:-build/m3-small}
SOURCES=${SOURCES:-[]} # none: all
HELD_OUT=${HELD_OUT:-[]}
SHRINK=${SHRINK:-1}

less() { # less N: N divided by SHRINK, at least 1
  echo $((($1 + SHRINK - 1) / SHRINK))
}
once() { # once NAME STAGE OPTIONS…: a result that is complete or not there
  local out=$OUT/$1 stage=$2
  if [ -e "$out" ]; then
    echo "$out: finished before"
  else
    rm -rf "$out.partial"
    python -m train "$stage" "${@:3}" --out "$out.partial"
    mv "$out.partial" "$out"
  fi
}
training() { # training NAME STAGE OPTIONS…: resumes at its last checkpoint; LAST is the checkpoint of the end
  python -m train "$2" "${@:3}" --out "$OUT/$1" --resume true
  LAST=$(printf '%s\n' "$OUT/$1"/step-* | tail -n 1)
}
mkdir -p "$OUT"

# What is trained on: at most CAP of one (lang, doc_lang, source), so that the well translated do not swamp the rest.
# "join" puts questions in any language about English texts into one data set and one mining pool.
rows=(--sources "$SOURCES" --drop_languages "$HELD_OUT")
once pairs.jsonl select --data "$DATA/pairs.jsonl" --sources "$SOURCES" --cap "$(less 1000)"
once rows.jsonl select --data "$DATA/train.jsonl" "${rows[@]}" --cap "$(less 1000)" --join en
once parallel.jsonl select --data "$DATA/parallel.jsonl" "${rows[@]}" --join en
# Parts of long texts, each with the section that is asked for.
once windows.jsonl select --data "$DATA/train_windows.jsonl" "${rows[@]}"
# Questions about English texts; terms of the user interface.
once questions.jsonl select --data "[$DATA/questions.jsonl, $DATA/messages.jsonl]" "${rows[@]}" --cap "$(less 1500)" --join en

# A little of each kind, and strings of sixty programs and games in 135 languages, for the step that recalls the base.
once some_questions.jsonl select --data "$DATA/questions.jsonl" "${rows[@]}" --cap "$(less 300)" --join en --seed 22
once some_rows.jsonl select --data "$DATA/train.jsonl" "${rows[@]}" --cap "$(less 130)" --join en --seed 22
once some_parallel.jsonl select --data "$DATA/parallel.jsonl" "${rows[@]}" --cap "$(less 100)" --join en --seed 22
once strings.jsonl select --data "$DATA/catalogues.jsonl" --drop_languages "$HELD_OUT" --cap "$(less 45)" --seed 22

# The base, with room for 8192 tokens; "repeat" keeps the output of texts of up to 512 tokens to the bit. Stage 0 is left
# out: the paper's 20,000 steps of long texts are out of reach of CPUs, and fewer would only cost the encoder what it knows
# (runs/paper.sh has it).
once base import-base --vocab_size 190000 --colbert_dim 128
once long extend --model "$OUT/base" --max_length 8192 --positions repeat

# Stage 1: dense, negatives from the batch. micro_tokens 0 tries out the size of a forward pass at the start.
training stage1 pretrain --model "$OUT/long" --data "$OUT/pairs.jsonl" --seed 1 --save_every 25 --micro_tokens 0 \
  --batching '{rows: 128, edges: [64, 128]}' --query_max_length 128 --passage_max_length 128 \
  --phase '{steps: '"$(less 150)"', losses: [dense], train: [encoder], freeze_layers: 4, learning_rate: 1.0e-4}'

# Stage 2, first with the builder's BM25 negatives,
unified() { # unified STEPS RATE HEAD_RATE: one phase with self-distillation, embeddings and lower four layers frozen
  echo "{steps: $(less "$1"), train: [encoder, sparse, multi_vector], freeze_layers: 4, self_distill: true," \
    "learning_rate: $2, head_learning_rate: $3}"
}
training warmup finetune --model "$LAST" --data "$OUT/rows.jsonl" --seed 1 --save_every 80 --micro_tokens 0 \
  --batching '{rows: 32, edges: [64, 128]}' --query_max_length 48 --passage_max_length 128 --group_size 3 \
  --phases.unified "$(unified 640 1.0e-4 1.0e-3)"
warmup=$LAST

# ... then with negatives that this model finds itself; 128 tokens cut most help pages, on which the model is asked.
# Scores of the passages are not used below, and without multi-vectors mining is quicker.
once mined.jsonl mine --model "$warmup" --data "$OUT/rows.jsonl" --seed 1 --modes '[dense, sparse]' --first 3 --last 50 \
  --ratio 0.94 --negatives 4 --score dense_sparse --query_max_length 128 --passage_max_length 128 --dtype bfloat16 \
  --shard_size 4096 --work "$OUT/mined.work"
rm -rf "$OUT/mined.work" # encoded passages, found again after an interruption
# Small pools have no negative for some rows, hence skip.
training tuned finetune --model "$warmup" --data "[$OUT/mined.jsonl, $OUT/parallel.jsonl]" --on_bad_row skip --seed 2 \
  --save_every 50 --micro_tokens 0 --batching '{rows: 48, edges: [64, 128, 192, 256]}' --query_max_length 48 \
  --passage_max_length 384 --group_size 3 --phases.unified "$(unified 400 1.0e-4 5.0e-4)"
tuned=$LAST

# ... then across languages: many short rows without negatives of their own, in batches about one topic,
once topics.jsonl topics --model "$tuned" --data "$OUT/questions.jsonl" --passages 400 --dtype bfloat16
training aligned finetune --model "$tuned" --data "$OUT/topics.jsonl" --seed 3 --save_every 40 --micro_tokens 0 \
  --batching '{tokens: 14000, rows: 256, edges: [24, 64, 128, 192, 256]}' --query_max_length 48 --passage_max_length 256 \
  --group_size 1 --phases.unified "$(unified 460 1.0e-4 5.0e-4)"
aligned=$LAST

# ... and on parts of long texts, whose negatives are the other rows of the batch. Each of the last two costs a little of
# what it does not train; the mean of the weights keeps most of all.
training long_tuned finetune --model "$tuned" --data "$OUT/windows.jsonl" --seed 3 --save_every 10 --micro_tokens 0 \
  --attention sdpa --memory split --batching '{rows: 16, edges: [512, 1024]}' --query_max_length 64 \
  --passage_max_length 1792 --group_size 1 --phases.unified "$(unified 60 5.0e-5 2.0e-4)"
once between average --models "[$tuned, $aligned, $LAST]" --weights '[3, 8, 1]'

# What ships has 96 numbers a row.
once narrow project --model "$OUT/between" --data "$OUT/rows.jsonl" --colbert_dim 96

# All that was about software, and the model forgot some of what its base knew of other texts. Here the base joins the
# teacher of self-distillation, and then a share of its layers the mean of the weights before and after.
once some_topics.jsonl topics --model "$OUT/narrow" --passages 400 --dtype bfloat16 \
  --data "[$OUT/some_questions.jsonl, $OUT/some_rows.jsonl, $OUT/some_parallel.jsonl]"
training recalled finetune --model "$OUT/narrow" --data "[$OUT/some_topics.jsonl, $OUT/strings.jsonl]" --seed 1 \
  --on_bad_row skip --save_every 30 --micro_tokens 0 \
  --batching '{tokens: 12000, rows: 256, edges: [24, 64, 128, 192, 256]}' --query_max_length 48 --passage_max_length 256 \
  --group_size 1 --objective.symmetric true --anchor "{model: $OUT/base, weight: 3}" \
  --phases.unified "$(unified 180 6.0e-5 2.0e-4)"
once whole average --models "[$OUT/narrow, $LAST]" --base "$OUT/base" --base_share 0.15

# Weights of 4 bits and less, whose corrections learn the vectors of the model before.
training small distill --model "$OUT/whole" \
  --data "[$OUT/pairs.jsonl, $OUT/questions.jsonl, $OUT/parallel.jsonl]" --export_precision int4 \
  --save_every 40 --batching '{rows: 192, edges: [16, 32, 64, 128]}' --phase.steps "$(less 320)"
[ -e "$OUT/bundle" ] || python -m onnx_export "$LAST" "$OUT/bundle" --precision int4 --name m3-small
echo "$OUT/bundle"
