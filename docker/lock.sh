#!/usr/bin/env bash
# Write constraints.txt: the versions that a clean environment resolves to, held to the torch that is named here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
echo "torch==2.13.0" >"$work/torch.txt"
"$work/venv/bin/pip" install -q -c "$work/torch.txt" -e '.[dev]'
{
  echo "# Exact versions for a CPU machine, Python 3.11; written by: make lock"
  echo "torch==2.13.0"
  "$work/venv/bin/pip" freeze --exclude-editable | sed 's/+cpu$//' | grep -v -e '^torch==' -e '^pip==' -e ' @ '
} >constraints.txt
