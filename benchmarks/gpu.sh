#!/usr/bin/env bash
# All measurements that need a GPU, the most valuable first. Rerun the same command while it exits with 75: what is done is
# skipped. It exits with 1 if a check failed, and 0 otherwise; every check runs whatever the others did.
#
#   benchmarks/gpu.sh [SHARDS] [WEIGHTS] [OUT]
#
# SHARDS: CUB-200 (python shards/build.py cub200 ...); empty: rendered glyphs. WEIGHTS: of BVLC GoogLeNet; empty: random.
# OUT: benchmarks/gpu/CARD. OUT/results.md is to be committed; OUT/steps holds runs and logs.
#
#   CALL_SECONDS=540   a call starts no step that might not end within it
#   PATIENCE=1         multiplies the time limit of each step
#   SMALL=1            small sizes, for a trial on a CPU
#   PYTHON=python3     an interpreter with torch; what else a check needs and does not find is reported as not checked
set -uo pipefail
py=${PYTHON:-python3}
shards=${1:-} weights=${2:-}
[ -z "$shards" ] || shards=$(realpath -e "$shards") || exit 2
[ -z "$weights" ] || weights=$(realpath -e "$weights") || exit 2
[ -z "${3:-}" ] || out=$(realpath -m "$3")
cd "$(dirname "$0")/.." || exit 2
card=$("$py" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "_") if torch.cuda.is_available() else "CPU")') ||
  { echo "$py has no torch: name an interpreter by PYTHON"; exit 2; }
gpus=$("$py" -c 'import torch; print(torch.cuda.device_count())')
out=${out:-$PWD/benchmarks/gpu/$card}
steps=$out/steps
mkdir -p "$steps"
touch "$steps/status.tsv"
deadline=$((SECONDS + ${CALL_SECONDS:-540}))

has() { "$py" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
note() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> "$steps/status.tsv"; echo "$1: $2"; }
done_before() { cut -f 1 "$steps/status.tsv" | grep -qx -- "$1"; }
again() { echo "rerun the same command to continue with $1"; exit 75; }

# step NAME SECONDS COMMAND...: the result goes to OUT/steps/NAME.txt. Statuses: 0 ok, 77 not checked, anything else failed.
step() {
  local name=$1 limit=$(($2 * ${PATIENCE:-1})) begin=$SECONDS status
  shift 2
  done_before "$name" && return
  [ $((deadline - SECONDS)) -ge "$limit" ] || again "$name"
  timeout -k 15 "$limit" "$@" > "$steps/$name.txt" 2> "$steps/$name.err" < /dev/null
  status=$?
  case $status in
    0) note "$name" ok $((SECONDS - begin)) ;;
    77) note "$name" "not checked" $((SECONDS - begin)) ;;
    124 | 137) note "$name" "FAILED: not done after $limit s" $((SECONDS - begin)) ;;
    *) note "$name" "FAILED (status $status): $(grep -v '^ *$' "$steps/$name.err" | tail -n 1 | cut -c 1-160)" $((SECONDS - begin)) ;;
  esac
}
skip() { done_before "$1" || note "$1" "not checked: $2" 0; }
# needs NAME PACKAGE SECONDS COMMAND...: a step, where the package is installed
needs() { if has "$2"; then step "$1" "${@:3}"; else skip "$1" "$2 is not installed"; fi; }

if [ "${SMALL:-0}" = 1 ]; then
  size=(--small)
  bench=(--quick)
  run=(--views.size 32 --views.resize 36 --model.backbone small --model.weights '' --batch.groups 4 --batch.group_size 5
       --train.max_steps 8 --train.epochs 1 --warm_up.epochs 0 --evaluation.nmi false --data.workers 1)
else
  size=()
  bench=(--config configs/cub200.yaml --model.weights "$weights")
  run=(--config configs/cub200.yaml --model.weights "$weights")
fi
check() { step "$1" "$2" "$py" -m benchmarks.gpu_checks "$1" "${size[@]}"; }
cost() { step "$1" "$2" "$py" -m benchmarks.gpu_steps "$1" "${size[@]}"; }
ratios() { needs "bench_$1_$2" jsonargparse "$3" "$py" -m dist_plm.bench "${bench[@]}" --markdown --only "$2" --shards "$shards" "${@:4}"; }

step machine 60 bash -c 'nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader 2> /dev/null ||
  grep -m 1 "model name" /proc/cpuinfo
  "$0" -m pip list 2> /dev/null | grep -iE "^(torch|torchvision|triton|faiss|deepspeed|timm|numpy)[a-z-]* "
  git rev-parse HEAD 2> /dev/null || echo "no git here"' "$py"
# Glyphs where no data set was named: the loader, sweeps and the run need images.
if [ -z "$shards" ]; then
  needs demo matplotlib 300 "$py" shards/build.py demo --images 400 --size 64 --classes 8 --workers 2 --out "$steps/demo"
  shards=$steps/demo
fi

# 1. The kernel and the libraries of which nothing ran on this card before.
check kernel 200
check searches 200
check decoding 120
check second_stream 240
check collectives 120
# 2. A step: kernels, waits, host or device; then the ratios.
cost trace 240
ratios fp32 P1,P2 400
ratios bf16 P1,P2 400 --train.precision bf16
ratios tf32 P1,P2 400 --train.precision tf32
if "$py" -c 'import inspect, sys, torch; sys.exit("isolate_recompiles" not in inspect.signature(torch.compile).parameters)'; then
  ratios compiled P1,P2 500 --train.precision bf16 --runtime.compile true
else
  skip bench_compiled_P1,P2 "runtime.compile needs torch 2.14"
fi
for group in P4,P5 P6,P11 P7,P13 P8 P9,P10 P12; do ratios fp32 "$group" 500; done
# 3. Ranks, and the same bits twice.
cost reproducible 200
ranks=$((gpus > 1 ? gpus : 2))
if [ "$gpus" = 1 ]; then
  skip ranks "one GPU, and NCCL takes one rank a GPU"
else
  for lost in dies sleeps; do
    step "ranks_$lost" 250 env LOST="$lost" "$py" -m torch.distributed.run --standalone --nproc_per_node "$ranks" -m benchmarks.gpu_ranks
  done
fi
# 4. and 5. Every setting of a step; what saving leaves behind.
cost settings 500
cost saves 200
# 6. A ViT in bf16.
needs vit timm 300 "$py" -m benchmarks.gpu_steps vit "${size[@]}"
# 7. The paper's run in pieces: SIGTERM saves a checkpoint and ends it with 75.
if has jsonargparse && has webdataset && [ -d "$shards" ]; then
  while ! done_before run; do
    left=$((deadline - SECONDS - 45))
    [ "$left" -ge 60 ] || again run
    timeout -s TERM -k 60 "$left" "$py" -m dist_plm.train "${run[@]}" --data.shards "$shards" --run_dir "$steps/run" 2>> "$steps/run.err"
    case $? in
      0) note run ok $SECONDS ;;
      75 | 124) again run ;;
      *) note run "FAILED: $(tail -n 1 "$steps/run.err" | cut -c 1-160)" 0 ;;
    esac
  done
  [ ! -s "$steps/run/metrics.jsonl" ] || step curve 100 "$py" benchmarks/curve.py "$steps/run"
else
  skip run "jsonargparse, webdataset and a data set are needed"
fi

{
  echo "# $card"
  echo
  echo '| check | outcome | seconds |'
  echo '|---|---|---:|'
  awk -F '\t' '{print "| " $1 " | " $2 " | " $3 " |"}' "$steps/status.tsv"
  cut -f 1 "$steps/status.tsv" | while read -r name; do
    [ ! -s "$steps/$name.txt" ] || { echo; echo "## $name"; echo; cat "$steps/$name.txt"; }
  done
} > "$out/results.md"
echo "results: $out/results.md"
! cut -f 2 "$steps/status.tsv" | grep -q '^FAILED'
