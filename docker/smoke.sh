#!/usr/bin/env bash
# What an image must do: show its help, compose a run, refuse a typo, train one that is small.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
peftkit --help | head -n 3
peftkit recipe=lora_glue task=sst2 --cfg job >/dev/null
if peftkit recipe=lora_gleu 2>"$out/typo"; then echo "a typo was accepted" >&2; exit 1; fi
grep -q "did you mean recipe=lora_glue" "$out/typo"
peftkit recipe=lora_glue task=sst2 model=minilm source=offline task.max_train_samples=64 train.num_train_epochs=1 out="$out"
peftkit job=leaderboard out="$out" >/dev/null
echo "smoke: all steps passed"
