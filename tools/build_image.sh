#!/usr/bin/env bash
# Builds the Docker image and runs one job in it, that of test_input.json, through the image's own command and user,
# then the doctor.
#
# A Docker engine, where one runs, builds on the Dockerfile's own base. Elsewhere, as root on Debian or Ubuntu, buildah
# does it without an engine and without a registry, on the Debian release that has the same Python, made here: that
# proves the steps, the files copied, the user and the command, not the real base. Exit 77: this machine can do neither.
#
# IMAGE_WORK       where the store without an engine is kept, outside the checkout
# STORAGE_DRIVER   overlay; vfs where the kernel refuses that (slow, and large)
set -euo pipefail
cd "$(dirname "$0")/.."

image=localhost/generation-worker:check
real_base=$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile) # python:<version>-slim-<release>@<digest>
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Run a command that says a lot; only what it said last is shown, and only if it fails.
quietly() {
  "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2; return 1; }
}

with_docker() {
  local base=localhost/generation-worker-base:check
  # pip's further index, where this machine names one: without a GPU nobody needs several GB of CUDA.
  printf 'FROM %s\nENV PIP_EXTRA_INDEX_URL="%s"\n' "$real_base" "${PIP_EXTRA_INDEX_URL:-}" |
    quietly docker build -t "$base" -
  quietly docker build --build-arg "BASE_IMAGE=$base" -t "$image" .
  run=(docker run --rm "$image")
}

without_docker() {
  local release version=${real_base#python:} work=${IMAGE_WORK:-/var/tmp/generation-worker-image} base folder made
  local ca=/etc/ssl/certs/ca-certificates.crt
  version=${version%%-*}
  case $version in
    3.11) release=bookworm ;;
    3.13) release=trixie ;;
    *) echo "image: no Debian release has Python $version" >&2; return 1 ;;
  esac
  base=localhost/debian-$release:python$version
  mkdir -p "$work"
  local store=(--root "$work/store" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-overlay}")
  export DEBIAN_FRONTEND=noninteractive

  if ! type -P buildah mmdebstrap podman runc >/dev/null; then
    quietly apt-get update
    quietly apt-get install -y --no-install-recommends \
      buildah ca-certificates debian-archive-keyring mmdebstrap podman runc
  fi
  if ! buildah "${store[@]}" inspect "$base" >/dev/null 2>&1; then
    quietly mmdebstrap --variant=minbase \
      --include="ca-certificates,python$version,python3-pip,python-is-python3" \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' "$release" "$work/base.tar"
    made=$(buildah "${store[@]}" from scratch)
    quietly buildah "${store[@]}" add "$made" "$work/base.tar" /
    quietly buildah "${store[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$made"
    quietly buildah "${store[@]}" commit --rm "$made" "$base"
    rm "$work/base.tar"
  fi

  # For the build alone: this machine's certificates, and where its pip looks for packages.
  local mounts=(-v "$ca:/run/ca.crt:ro" -v "$work/pip.conf:/etc/pip.conf:ro" -v "$work/links.html:/run/links.html:ro"
    -v "$work/npmrc:/root/.npmrc:ro")
  {
    printf '[global]\ncert = /run/ca.crt\nbreak-system-packages = true\n'
    env | sed -n 's/^PIP_\(INDEX_URL\|EXTRA_INDEX_URL\)=/\1 = /p'
    echo "find-links = /run/links.html"
  } >"$work/pip.conf"
  echo "cafile=/run/ca.crt" >"$work/npmrc"
  # A page of the wheels there, with hashes: pip prefers files whose hash it is told.
  for folder in ${PIP_FIND_LINKS:-}; do
    [ -d "$folder" ] || continue
    mounts+=(-v "$folder:$folder:ro")
    sha256sum "$folder"/*.whl | sed -E 's|^(\w+) +(.*/(.*))$|<a href="file://\2#sha256=\1">\3</a>|'
  done >"$work/links.html"
  quietly buildah "${store[@]}" build --isolation chroot --pull-never --format docker --layers "${mounts[@]}" \
    --build-arg "BASE_IMAGE=$base" -t "$image" .
  run=(podman "${store[@]}" --cgroup-manager cgroupfs --events-backend file --runtime runc run --rm --pull never
    --network host --ulimit nofile=20000:20000 --ulimit nproc=8192:8192 "$image")
}

if docker info >/dev/null 2>&1; then
  echo "image: Docker builds it (minutes the first time) ..."
  with_docker
elif [ "$(id -u)" = 0 ] && type -P apt-get >/dev/null && unshare --mount true 2>/dev/null; then
  echo "image: buildah builds it (minutes the first time) ..."
  without_docker
else
  echo "image: skipped, it needs a running Docker engine, or root on Debian or Ubuntu"
  exit 77
fi
echo "image: built; its job:"

rc=0
"${run[@]}" >"$log" 2>&1 || rc=$?
# Results carry pictures in base64: long runs of it say nothing in a log.
sed -E 's/[A-Za-z0-9+\/=]{200,}/.../g' "$log" | tail -n 40
[ "$rc" = 0 ] || { echo "image: the job failed (exit $rc)" >&2; exit 1; }
for sign in "completed successfully" "'images':" "'model': 'demo'"; do
  grep -qF "$sign" "$log" || { echo "image: the output does not say: $sign" >&2; exit 1; }
done
echo "image: one text2img job done in it; what the doctor says of it:"
"${run[@]}" python -m worker.doctor || { echo "image: the doctor finds something red" >&2; exit 1; }
