#!/usr/bin/env bash
# Writes constraints.txt and tools/pip.txt (tools/lock.py) with a uv that lives in an environment of its own.
# Versions stay where requirements.txt and requirements-dev.txt allow it; with --upgrade each becomes the newest.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check uv packaging
"$work/venv/bin/python" tools/lock.py "$@"
