#!/usr/bin/env bash
# Lint, types and tests: bash scripts/test.sh [--slow] [pytest's own words]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [ "${1:-}" = --slow ]; then
  shift
  marks=()
else
  marks=(-m "not slow")
fi
ruff check .
ruff format --check .
mypy
export TOKENIZERS_PARALLELISM=false WANDB_SILENT=true
pytest "${marks[@]}" "$@"
