#!/usr/bin/env bash
# On the machine with the GPU, from the folder that holds .gpu: bash .gpu/run.sh [CHECK ...]; results are in $OUT (/tmp/gpu-out).
set -euo pipefail
bundle=$(cd "$(dirname "$0")" && pwd)
site=${TMPDIR:-/tmp}/peftkit-site
out=${OUT:-/tmp/gpu-out}
mkdir -p "$out" "$site"
[ -d "$site/site" ] || tar xJf "$bundle/site.tar.xz" -C "$site"
export PYTHONPATH=$site/site:$bundle/peftkit PEFTKIT_HOME=${TMPDIR:-/tmp}/peftkit-home HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$bundle/peftkit"
python3 -m pytest -p no:cacheprovider -m gpu tests/test_gpu.py | tee "$out/pytest.log"
python3 tests/benchmarks/gpu.py --out "$out" "$@" | tee "$out/gpu.log"
