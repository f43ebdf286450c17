#!/usr/bin/env bash
# All that is to be measured on a GPU, in one go. What is done is not done again: the same line goes on where it was.
#
#   benchmarks/gpu.sh SHARDS WEIGHTS [OUT]        CUB-200 as shards, BVLC GoogLeNet's weights; OUT: benchmarks/gpu
#   SMALL=1 benchmarks/gpu.sh SHARDS '' [OUT]     a trial with small sizes in minutes, on a CPU too
#   SECONDS_A_PIECE=1500 ...                      the run of CUB-200 stops after so long, saved, with status 75
#
# OUT gets machine.txt, tests.txt, checks.md, bench_*.json and .txt, baseline_loop.md, cub200/ and curve.md.
set -uo pipefail
shards=$(realpath "${1:?shards of CUB-200 (python shards/build.py cub200 ...)}") || exit 2
weights=${2?weights of BVLC GoogLeNet, or an empty word}
out=${3:-benchmarks/gpu}
piece=${SECONDS_A_PIECE:-1500}
[ -z "$weights" ] || weights=$(realpath "$weights") || exit 2
[ -z "${3:-}" ] || out=$(realpath -m "$3")
cd "$(dirname "$0")/.." || exit 2
mkdir -p "$out"
failed=0
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')

# step NAME COMMAND...: standard output goes to OUT/NAME when the command ends well; its errors to OUT/NAME.err
step() {
  local name=$1
  shift
  [ -s "$out/$name" ] && { echo "$name: done before"; return; }
  echo "$name: $*"
  if "$@" > "$out/$name.tmp" 2> "$out/$name.err"; then
    mv "$out/$name.tmp" "$out/$name"
  else
    echo "$name: FAILED, see $out/$name.err"
    failed=1
  fi
}

if [ "${SMALL:-0}" = 1 ]; then
  sizes=(--quick)
  checks=(--points 50 --rows 3000 --queries 300)
  loop=(--size 48 --images 20 --steps 1 --repeats 1 --workers 1 --backbone small)
  run=(--views.size 32 --views.resize 36 --model.backbone small --batch.groups 4 --batch.group_size 5
       --train.epochs 2 --train.max_steps 20 --evaluation.nmi false)
else
  sizes=(--config configs/cub200.yaml)
  checks=()
  loop=(--size 227 --steps 10 --repeats 5 --workers 8)
  run=(--model.weights "$weights")
fi

step machine.txt bash -c 'nvidia-smi 2>&1 || lscpu; python -m pip list 2>/dev/null | grep -iE "torch|triton|faiss|pillow"; git rev-parse HEAD || true'
step tests.txt python -m pytest -q tests/unit/test_selection.py tests/unit/test_step_cost.py tests/unit/test_index.py
step checks.md python -m benchmarks.gpu_checks "${checks[@]}"
for precision in fp32 bf16; do
  table=(python -m dist_plm.bench "${sizes[@]}" --shards "$shards" --train.precision "$precision")
  step "bench_$precision.txt" "${table[@]}" --out "$out/bench_$precision.json"
done
step bench_compiled.txt "${table[@]}" --runtime.compile true --only P1,P2 --out "$out/bench_compiled.json"
if [ "$gpus" -gt 1 ]; then
  step bench_ranks.txt torchrun --standalone --nproc_per_node "$gpus" -m dist_plm.bench "${sizes[@]}" --out "$out/bench_ranks.json"
fi
step baseline_loop.md python -m benchmarks.baseline_loop "$shards" "${loop[@]}"

# The paper's run, in pieces: SIGTERM saves and leaves with 75, and the same line resumes.
if [ ! -s "$out/curve.md" ]; then
  echo "cub200: $piece s of it"
  timeout --preserve-status -s TERM "$piece" python -m dist_plm.train --config configs/cub200.yaml --data.shards "$shards" \
    --run_dir "$out/cub200" "${run[@]}" 2>> "$out/cub200.err"
  case $? in
    0) step curve.md python benchmarks/curve.py "$out/cub200" ;;
    75) echo "cub200: saved; the same line goes on"; exit 75 ;;
    *) echo "cub200: FAILED, see $out/cub200.err"; failed=1 ;;
  esac
fi
exit $failed
