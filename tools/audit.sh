#!/usr/bin/env bash
# Asks PyPI's advisory service whether a pinned package has a known vulnerability; pip-audit lives in its own environment.
# Exit 0: none is known, or nobody could be asked (which is said in words). Exit 1: a package has one.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

not_asked() {
  echo "audit: NOT DONE, $1. Nothing is known about the pinned packages; run it where the service can be reached."
  exit 0
}

# What pip-audit makes of the pins in $1: "<audited> <skipped> <vulnerable>", and each vulnerability on a line before it.
# A package that the service knows nothing of is "skipped", with exit code 0: that is no clean bill of health.
ask() {
  timeout 600 "$work/venv/bin/pip-audit" -r "$1" --no-deps --disable-pip --progress-spinner off --timeout 15 --format json \
    >"$work/found.json" 2>/dev/null || true
  "$work/venv/bin/python" - "$work/found.json" <<'PYTHON'
import json
import pathlib
import sys

try:
    found = json.loads(pathlib.Path(sys.argv[1]).read_text())["dependencies"]
except (OSError, ValueError, KeyError):
    found = []
audited = [package for package in found if "vulns" in package]
bad = [package for package in audited if package["vulns"]]
for package in bad:
    for one in package["vulns"]:
        print(f"{package['name']} {package['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version'}")
print(len(audited), len(found) - len(audited), len(bad))
PYTHON
}

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pip-audit >/dev/null 2>&1 ||
  not_asked "pip-audit could not be installed"

# Everything that requirements.txt brings in is pinned in constraints.txt, so nothing has to be resolved or built.
sed -nE 's/^([A-Za-z0-9._-]+==[^ ]+).*/\1/p' constraints.txt >"$work/pinned.txt"
grep -E '^pillow==' "$work/pinned.txt" >"$work/one.txt"
read -r audited _ < <(ask "$work/one.txt" | tail -n 1)
[ "$audited" = 1 ] || not_asked "the advisory service does not answer from here"

ask "$work/pinned.txt" >"$work/said.txt"
read -r audited skipped bad < <(tail -n 1 "$work/said.txt")
sed '$d' "$work/said.txt"
[ "$audited" -gt 0 ] || not_asked "the advisory service broke off"
echo "audit: $audited pinned packages looked up, $skipped unknown to the service, $bad with a known vulnerability"
[ "$bad" = 0 ]
