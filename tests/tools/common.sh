# Sourced by the scripts beside it: messages, the cache, retries, locks, and what may be installed by whom.
# shellcheck shell=bash

cache=${PITR_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/pitr}
self=$(basename "$0")

say() { printf '%s: %s\n' "$self" "$*" >&2; }
die() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# retry TIMES COMMAND...: for commands that talk to a registry; waits 2, 4, 6 ... seconds in between.
retry() {
  local times=$1 n=0
  shift
  until "$@"; do
    n=$((n + 1))
    [ "$n" -lt "$times" ] || return 1
    say "attempt $n failed, again: $1 ${2:-}"
    sleep $((n * 2))
  done
}

# One installer at a time per thing installed, also across checkouts; the lock goes with the process.
lock_cache() {
  mkdir -p "$cache"
  exec 9>"$cache/.$1.lock"
  flock 9
}

apt_updated=
# apt_install PACKAGE...: installs what is missing. Without root it says which command does and fails.
apt_install() {
  local package missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  have apt-get || { say "needs ${missing[*]}, and this is not a Debian machine: install them your own way"; return 1; }
  if ! is_root; then
    say "needs ${missing[*]}; install them with: sudo apt-get install --no-install-recommends ${missing[*]}"
    return 1
  fi
  say "installing ${missing[*]} with apt"
  if [ -z "$apt_updated" ]; then
    retry 3 apt-get -qq update >&2 || say "apt-get update failed; trying with the lists at hand"
    apt_updated=1
  fi
  DEBIAN_FRONTEND=noninteractive retry 3 apt-get -qq install -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "${missing[@]}" >&2 </dev/null
}

# apt_install_postgres PACKAGE: a server without the default cluster on port 5432, which would only be in the way here.
# The drop-in lives for as long as the installation, so that who installs another version later gets what Debian gives.
apt_install_postgres() {
  local dropin=/etc/postgresql-common/createcluster.d/pitr-tests.conf code=0
  if is_root; then
    mkdir -p "$(dirname "$dropin")"
    echo "create_main_cluster = false" >"$dropin"
  fi
  apt_install "$1" || code=$?
  ! is_root || rm -f "$dropin"
  return "$code"
}
