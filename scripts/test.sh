#!/usr/bin/env bash
# Lint, types and tests: bash scripts/test.sh [--slow] [pytest's own arguments]
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
if python -c "import material, mkdocs" 2>/dev/null; then  # pip install -e '.[docs]'
  mkdocs build --quiet --strict
fi
# one process for each core, so one thread each
export TOKENIZERS_PARALLELISM=false WANDB_SILENT=true OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
pytest -n logical --maxprocesses 8 "${marks[@]}" "$@"
