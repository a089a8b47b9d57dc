#!/usr/bin/env bash
# Build docker/Dockerfile or docker/Dockerfile.cpu and run docker/smoke.sh in the image, without a Docker engine or a registry.
# From the repository's root: docker/image.sh [docker/Dockerfile.cpu]      About 5 minutes and 8 GB; needs root and Debian's packages.
# A Debian bookworm with its python3.11 replaces the base image, under the name of the base, with the same layout of commands.
set -euo pipefail
file=${1:-docker/Dockerfile.cpu}
tag=peftkit:$(basename "$file" | tr 'A-Z.' 'a-z-')
work=${TMPDIR:-/tmp}/image-check
mkdir -p "$work"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
command -v buildah debootstrap >/dev/null \
  || { apt-get update -qq && apt-get install -y -qq buildah debootstrap; } >"$work/apt.log" 2>&1

base=docker.io/library/$(awk '/^FROM /{print $2; exit}' "$file")
if ! buildah images "$base" >/dev/null 2>&1; then
  mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/*.sources)
  packages=python3,python3-pip,python3-venv,ca-certificates
  [ -d "$work/root" ] || debootstrap --variant=minbase --include=$packages bookworm "$work/root" "$mirror" >"$work/base.log"
  ln -sf python3 "$work/root/usr/bin/python"
  rm -f "$work"/root/usr/lib/python3.*/EXTERNALLY-MANAGED
  printf 'FROM scratch\nCOPY root/ /\nENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\n' >"$work/Dockerfile"
  buildah bud -q -t "$base" "$work" >/dev/null
fi

# where PIP_FIND_LINKS is a folder of wheels, as of torch's CPU build, it replaces torch's own index
mounts=(-v /etc/ssl/certs:/etc/ssl/certs:ro)
tried=$file
if [ -d "${PIP_FIND_LINKS:-}" ]; then
  tried=$work/Dockerfile.tried
  sed 's# --extra-index-url [^ ]*##' "$file" >"$tried"
  if [ "$(basename "$file")" = Dockerfile.cpu ]; then
    printf '[global]\nfind-links = %s\n' "$PIP_FIND_LINKS" >"$work/pip.conf"
    mounts+=(-v "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro" -v "$work/pip.conf:/etc/pip.conf:ro")
  fi
fi
buildah bud --pull-never --network host "${mounts[@]}" -f "$tried" -t "$tag" . >"$work/build.log" 2>&1 \
  || { tail -20 "$work/build.log"; exit 1; }

container=$(buildah from --pull-never "localhost/$tag")
trap 'buildah rm "$container" >/dev/null' EXIT
root=$(buildah mount "$container")
buildah images "localhost/$tag"
du -sm "$root/opt/venv" "$root" | sed 's/$/  (MB)/'
touch "$work/before"
[ "$(buildah run "$container" -- id -u)" = 1000 ] || { echo "the image does not run as uid 1000" >&2; exit 1; }
buildah run "$container" -- bash /app/docker/smoke.sh

# what compose.yaml mounts is all that a run may write: its root file system is read-only
written=$(find "$root" -xdev -newer "$work/before" -type f \
  ! -path "$root/tmp/*" ! -path "$root/app/outputs/*" ! -path "$root/home/peftkit/.cache/*" \
  ! -path "$root/etc/*" ! -path "$root/run/*" ! -path "$root/proc/*" ! -path "$root/dev/*")
[ -z "$written" ] || { printf 'written outside of the volumes:\n%s\n' "$written" >&2; exit 1; }

# the service `board` of compose.yaml
buildah run --network host "$container" -- sh -c 'peftkit job=leaderboard watch=true 2>/tmp/board & server=$!
  for _ in $(seq 60); do grep -q http /tmp/board && break; sleep 1; done
  address=$(grep -o "http://[^ ]*" /tmp/board)
  python -c "import sys, urllib.request; print(len(urllib.request.urlopen(sys.argv[1]).read()), \"bytes at\", sys.argv[1])" "$address"
  status=$?; kill $server; exit $status'
