#!/usr/bin/env bash
# All measurements that need a GPU, the most valuable first. Rerun the same command while it exits with 75: what is done is
# skipped. It exits with 1 if a check failed, and 0 otherwise; every check runs whatever the others did.
#
#   benchmarks/gpu.sh [SHARDS] [WEIGHTS] [OUT]
#
# SHARDS: CUB-200 (python shards/build.py cub200 ...); empty: rendered glyphs. WEIGHTS: of BVLC GoogLeNet; empty: random.
# OUT: benchmarks/gpu/CARD. OUT/results.md is written after each step and is to be committed; OUT/steps holds runs and logs.
# To repeat a step, delete its line from OUT/steps/status.tsv. On a fresh machine, bring OUT/steps to go on.
#
#   CALL_SECONDS=540   duration of a call at most
#   PATIENCE=1         multiplies the time limit of each step
#   SMALL=1            small sizes, for a trial on a CPU
#   PYTHON=python3     an interpreter with torch; what else a check needs and does not find is reported as not checked
set -uo pipefail
py=${PYTHON:-python3} small=${SMALL:-0} call=${CALL_SECONDS:-540}
deadline=$((SECONDS + call - 15))
shards=${1:-} weights=${2:-}
[ -z "$shards" ] || shards=$(realpath -e "$shards") || exit 2
[ -z "$weights" ] || weights=$(realpath -e "$weights") || exit 2
[ -z "${3:-}" ] || out=$(realpath -m "$3")
cd "$(dirname "$0")/.." || exit 2
"$py" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' ||
  { echo "$py has no torch: name an interpreter by PYTHON"; exit 2; }
# With two threads on two busy cores every operator waits for the thread that is not running: minutes for seconds of work.
[ "$small" != 1 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
facts=$("$py" -m benchmarks.gpu_common) || exit 2
read -r card gpus compiles packages <<< "$(tail -n 1 <<< "$facts")"
out=${out:-$PWD/benchmarks/gpu/$card}
steps=$out/steps
mkdir -p "$steps"
touch "$steps/status.tsv" "$steps/begun"
exec 9> "$steps/lock"
if has_flock=$(command -v flock) && ! "$has_flock" -w 30 9; then
  echo "another call for $out is still running: wait for it, or end it"
  exit 2
fi
first=1 child=
trap '[ -z "$child" ] || kill "$child" 2> /dev/null; exit 143' TERM INT HUP

has() { [[ " $packages " == *" $1 "* ]]; }
results() { "$py" -m benchmarks.gpu_results "$out" || echo "OUT/results.md could not be written"; }
# note NAME OUTCOME SECONDS
note() {
  printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> "$steps/status.tsv"
  echo "$1: $2 ($3 s)"
  [ ! -s "$steps/$1.txt" ] || grep -E '^(- |\| P)' "$steps/$1.txt" | cut -c 1-200 | sed 's/^/  /'
  results
}
done_before() { cut -f 1 "$steps/status.tsv" | grep -qxF -- "$1"; }
again() {
  echo "rerun the same command: next is $1 ($(wc -l < "$steps/status.tsv") steps are done, results so far in $out/results.md)"
  exit 75
}
# within GRACE SECONDS COMMAND...: SIGTERM after SECONDS, SIGKILL after GRACE more; a signal to this script ends it too.
within() {
  timeout -k "$@" < /dev/null &
  child=$!
  wait "$child"
  local status=$?
  child=
  return "$status"
}

# step NAME SECONDS COMMAND...: the result goes to OUT/steps/NAME.txt. Statuses: 0 ok, 77 not checked, anything else failed.
step() {
  local name=$1 limit=$(($2 * ${PATIENCE:-1})) left=$((deadline - SECONDS)) begin=$SECONDS seconds status last
  shift 2
  done_before "$name" && return
  # A third of the limit is enough for most; a step that is cut short begins the next call, with the whole of it.
  [ -n "$first" ] || [ "$left" -ge $(((limit + 2) / 3)) ] || again "$name"
  if [ "$(grep -cxF -- "$name" "$steps/begun")" -ge 3 ]; then
    note "$name" "FAILED: begun three times without an end" 0
    return
  fi
  echo "$name" >> "$steps/begun"
  within 15 $((left < limit ? left : limit)) "$@" > "$steps/$name.txt" 2> "$steps/$name.err"
  status=$? seconds=$((SECONDS - begin))
  last=$(grep -v '^ *$' "$steps/$name.err" | tail -n 1 | cut -c 1-160)
  case $status in
    0) note "$name" ok "$seconds" ;;
    77) note "$name" "not checked" "$seconds" ;;
    124 | 137)
      [ -n "$first" ] || [ "$left" -ge "$limit" ] || again "$name"
      note "$name" "FAILED: not done after $seconds s" "$seconds"
      ;;
    *)
      case $last in
        *"No module named 'dist_plm"* | *"No module named 'benchmarks"*) note "$name" "FAILED: $last" "$seconds" ;;
        ModuleNotFoundError*) note "$name" "not checked: ${last#*: }" "$seconds" ;;
        *) note "$name" "FAILED (status $status): $last" "$seconds" ;;
      esac
      ;;
  esac
  first=
}
skip() { done_before "$1" || note "$1" "not checked: $2" 0; }
# needs NAME PACKAGE SECONDS COMMAND...: a step, where the package is installed
needs() { if has "$2"; then step "$1" "${@:3}"; else skip "$1" "$2 is not installed"; fi; }

if [ "$small" = 1 ]; then
  size=(--small)
  bench=(--quick)
  groups=(P4,P5,P6,P7,P8,P9,P10,P11,P12,P13)
  run=(--views.size 32 --views.resize 36 --model.backbone small --model.weights '' --batch.groups 4 --batch.group_size 5
       --train.max_steps 8 --train.epochs 1 --warm_up.epochs 0 --evaluation.nmi false --data.workers 1 --train.report false)
else
  size=()
  bench=(--config configs/cub200.yaml --model.weights "$weights")
  groups=(P4,P5 P6,P11 P7,P13 P8 P9,P10 P12)
  run=(--config configs/cub200.yaml --model.weights "$weights")
fi
check() { step "$1" "$2" "$py" -m benchmarks.gpu_checks "$1" "${size[@]}"; }
cost() { step "$1" "$2" "$py" -m benchmarks.gpu_steps "$1" "${size[@]}"; }
# ratios NAME RATIOS SECONDS OPTIONS...: to OUT/steps/bench_NAME_RATIOS.txt and .json
ratios() {
  local name=bench_$1_$2
  needs "$name" jsonargparse "$3" "$py" -m dist_plm.bench "${bench[@]}" --markdown --only "$2" --shards "$shards" \
    --out "$steps/$name.json" "${@:4}"
}
torchrun=("$py" -m torch.distributed.run --standalone --nproc_per_node "$((gpus > 1 ? gpus : 2))")

check machine 90
# Glyphs where no data set was named: the loader, sweeps and the run need images.
if [ -z "$shards" ]; then
  needs demo matplotlib 300 "$py" shards/build.py demo --images 400 --size 64 --classes 8 --workers 2 --out "$steps/demo"
  [ ! -d "$steps/demo" ] || shards=$steps/demo
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
if [ "$compiles" = 1 ]; then
  ratios compiled P1,P2 500 --train.precision bf16 --runtime.compile true
  cost graphs 500
else
  skip bench_compiled_P1,P2 "runtime.compile needs torch 2.14"
  skip graphs "runtime.compile needs torch 2.14"
fi
for group in "${groups[@]}"; do ratios fp32 "$group" 500; done
# 3. Ranks, and the same bits twice.
cost reproducible 200
if [ "$gpus" = 1 ]; then
  skip ranks "one GPU, and NCCL takes one rank a GPU"
else
  for lost in dies sleeps; do
    step "ranks_$lost" 250 env LOST="$lost" "${torchrun[@]}" -m benchmarks.gpu_ranks
  done
  needs bench_fp32_P3 jsonargparse 400 "${torchrun[@]}" -m dist_plm.bench "${bench[@]}" --markdown --only P3 \
    --out "$steps/bench_fp32_P3.json"
fi
# 4. and 5. Every setting of a step; what saving leaves behind.
cost settings 500
cost saves 200
# 6. A ViT in bf16.
needs vit timm 300 "$py" -m benchmarks.gpu_steps vit "${size[@]}"
# 7. The paper's run in pieces: SIGTERM saves a checkpoint and ends it with 75.
if ! has jsonargparse || ! has webdataset || [ ! -d "$shards" ]; then
  skip run "jsonargparse, webdataset and a data set are needed"
elif ! done_before run; then
  begin=$SECONDS
  left=$((deadline - SECONDS - 60))
  [ "$left" -ge 60 ] || again run
  within 60 "$left" "$py" -m dist_plm.train "${run[@]}" --data.shards "$shards" --run_dir "$steps/run" \
    > "$steps/run.log" 2> "$steps/run.err"
  case $? in
    0) note run ok $((SECONDS - begin)) ;;
    75 | 124) results; again run ;;
    *) note run "FAILED: $(grep -v '^ *$' "$steps/run.err" | tail -n 1 | cut -c 1-160)" $((SECONDS - begin)) ;;
  esac
fi
results
echo "results: $out/results.md"
! cut -f 2 "$steps/status.tsv" | grep -q '^FAILED'
