# Sourced by the other scripts: .venv at the project's root, with the pinned versions installed. A second call is fast.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stamp=.venv/.installed
if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  echo "installing into .venv ..."
  # torch first and by its exact version: a range would bring the CUDA build where the plain one is enough
  .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt "$(grep '^torch==' constraints.txt)"
  .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
