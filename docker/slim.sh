#!/usr/bin/env bash
# Remove from a virtual environment what no run reads: tests, headers, static libraries and, for cpu, those of accelerators.
# slim.sh VENV cpu|cuda
set -euo pipefail
site=$(echo "$1"/lib/python3.*/site-packages)
cd "$site"
find torch/bin -type f ! -name torch_shm_manager -delete   # that one shares memory between the workers of a loader
rm -rf torch/test pyarrow/tests pyarrow/include pyarrow/src pyarrow/libarrow_flight* pyarrow/_flight*
for package in numpy pandas scipy sklearn statsmodels matplotlib joblib networkx nltk sympy mpmath pyarrow fontTools; do
  [ ! -d "$package" ] || find "$package" -type d -name tests -prune -exec rm -rf {} +
done
find . \( -name '*.a' -o -name '*.pyi' -o -name '*.pxd' \) -type f -delete
if [ "$2" = cpu ]; then
  rm -rf torch/include   # torch.compile needs them, and a compiler, which the image lacks too
  find bitsandbytes -name '*.so' ! -name '*_cpu*' -delete
fi
