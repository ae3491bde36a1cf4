#!/usr/bin/env bash
# setup.sh [MAJOR...]
#
# Makes ready all that `make test` needs: packages, the servers' account, PostgreSQL (13, 15, 17 and 18 unless other major
# versions are named), the S3 server. Running it again costs a second. As root it installs what is missing with apt;
# anybody else is told the commands, all of them at once.
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

[ $# -gt 0 ] || set -- 13 15 17 18
missing=0

# The name of a command and the package that brings it.
need() {
  have "$1" || apt_install "$2" || missing=1
}

need cc gcc
[ -e /usr/include/stdio.h ] || apt_install libc6-dev || missing=1
need make make
need curl curl
need openssl openssl
need setpriv util-linux
need flock util-linux
need npm npm
need node nodejs
need python3 python3
need zstd zstd
{ have python3 && python3 -m pip --version >/dev/null 2>&1; } || apt_install python3-pip || missing=1
if ! have cargo; then
  say "needs Rust (cargo): see https://rustup.rs; the version stands in Cargo.toml as rust-version"
  missing=1
fi
[ "$missing" = 0 ] || die "the above is missing; then run this again"

for major in "$@"; do
  "$tools/install-postgres.sh" "$major" >/dev/null || missing=1
done
"$tools/install-s3.sh" >/dev/null || missing=1
[ "$missing" = 0 ] || die "the above is missing; then run this again"

# PostgreSQL refuses root, so root's servers run as somebody else. Debian's package makes the account; elsewhere:
user=${PITR_TEST_USER:-postgres}
if is_root && ! id "$user" >/dev/null 2>&1; then
  say "making the account \"$user\" that the tests' servers run as"
  useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
fi

if is_root; then
  # Only to know at once what would otherwise fail in every test.
  setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups test -w "${TMPDIR:-/tmp}" ||
    die "\"$user\" can't write in ${TMPDIR:-/tmp}"
fi
say "ready: PostgreSQL $*, S3 server"
