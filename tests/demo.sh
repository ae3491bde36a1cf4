#!/usr/bin/env bash
# demo.sh [--dev] [--keep]
#
# The main job on a throwaway server: an agent protects it, a deployment goes wrong, and the database comes back to just
# before it. Works as root (everything then runs as an unprivileged user) and as anybody else; ends what it started and
# removes what it made, whatever happens; can be run again.
#
#   --dev   build without optimisation: sooner built, slower in everything that is shown
#   --keep  leave the directory with logs, repository and restored data directory
#
# PITR_BIN_DIR names a directory with built binaries; PG_BIN one with a PostgreSQL server's programs and psql.
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/tools/common.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=release keep=
for argument in "$@"; do
  case "$argument" in
    --dev) profile=dev ;;
    --keep) keep=1 ;;
    *) say "usage: $self [--dev] [--keep]"; exit 2 ;;
  esac
done

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' blue=$'\e[34m' plain=$'\e[0m'
else
  bold='' dim='' green='' red='' blue='' plain=''
fi
step=0
title() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$plain"; }
tell() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
fail() { printf '%s%s%s\n' "$red" "$*" "$plain"; exit 1; }

# --- What it needs -----------------------------------------------------------------------------------------------

find_postgres() {
  local bin
  for bin in "${PG_BIN:-}" /usr/lib/postgresql/{18,17,16,15,14,13}/bin "$(pg_config --bindir 2>/dev/null || true)"; do
    if [ -n "$bin" ] && [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && [ -x "$bin/psql" ]; then
      echo "$bin"
      return
    fi
  done
  return 1
}
if ! pg_bin=$(find_postgres); then
  apt_install_postgres postgresql || exit 1
  pg_bin=$(find_postgres) || die "PostgreSQL was installed, and its programs are not in /usr/lib/postgresql"
fi

if [ -z "${PITR_BIN_DIR:-}" ]; then
  have cargo || die "needs Rust (cargo) to build: see https://rustup.rs"
  have cc || apt_install gcc libc6-dev || exit 1
  tell "building (the first time takes minutes) ..."
  target=${CARGO_TARGET_DIR:-target}
  if [ "$profile" = release ]; then
    cargo build --quiet --release -p pitr-agent -p pitr-cli --bins </dev/null
    PITR_BIN_DIR=$target/release
  else
    cargo build --quiet -p pitr-agent -p pitr-cli --bins </dev/null
    PITR_BIN_DIR=$target/debug
  fi
fi
[ -x "$PITR_BIN_DIR/pitr" ] && [ -x "$PITR_BIN_DIR/pitr-agent" ] || die "no pitr and pitr-agent in $PITR_BIN_DIR"

# --- A place and a user of its own -------------------------------------------------------------------------------

# Short, because a unix socket's path holds at most 107 bytes.
work=$(mktemp -d /tmp/pitr-demo-XXXXXX)
drop=()
if is_root; then
  user=${PITR_TEST_USER:-postgres}
  id "$user" >/dev/null 2>&1 || die "needs an unprivileged user for the server; \"$user\" does not exist"
  drop=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --init-groups)
fi
# Replaces the shell it is called in, so that the pid of a background job is the program's own.
exec_as_user() {
  cd "$work" && exec env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE -u PGPASSWORD -u PITR_REPOSITORY \
    HOME="$work" PATH="$work/bin:$pg_bin:$PATH" PITR_CONFIG="$work/agent.toml" LC_ALL=C.UTF-8 "${drop[@]}" "$@"
}
as_user() { (exec_as_user "$@"); }

agent='' load=''
cleanup() {
  local code=$?
  trap - EXIT INT TERM
  set +e
  [ -z "$load" ] || kill "$load" 2>/dev/null
  if [ -n "$agent" ]; then
    kill "$agent" 2>/dev/null
    for _ in {1..50}; do kill -0 "$agent" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$agent" 2>/dev/null
  fi
  for data in "$work/data" "$work/restored"; do
    [ ! -e "$data/postmaster.pid" ] || as_user pg_ctl --silent --mode=immediate -D "$data" stop >/dev/null 2>&1
  done
  wait 2>/dev/null
  if [ "$code" != 0 ] && [ -s "$work/agent.log" ]; then
    printf '\nThe end of the agent'\''s log:\n'
    tail -15 "$work/agent.log"
  fi
  if [ -n "$keep" ]; then echo "kept: $work"; else rm -rf "$work"; fi
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/bin" "$work/socket" "$work/repository"
cp "$PITR_BIN_DIR/pitr" "$PITR_BIN_DIR/pitr-agent" "$work/bin/"
[ ${#drop[@]} -eq 0 ] || chown -R "$user" "$work"

sql() { as_user psql -X -q -h "$work/socket" -p "$1" -U postgres -v ON_ERROR_STOP=1 "${@:2}"; }
value() { sql "$1" -At -c "$2"; }

# Shows a command as it would be typed, runs it, and says how long it took.
show() {
  local begin=$EPOCHREALTIME
  printf '%s$ %s%s\n' "$blue" "${*//$work/.}" "$plain"
  as_user "$@" || return
  awk -v d="$dim" -v p="$plain" -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%s(%.1f s)%s\n", d, b - a, p }'
}

free_port() {
  local port
  for port in $(shuf -i 20000-29999 -n 50); do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
  done
  return 1
}
port=$(free_port) restored_port=$(free_port)

# --- The story ---------------------------------------------------------------------------------------------------

title "A PostgreSQL server with a shop in it"
as_user initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C -D "$work/data" >"$work/initdb.log" 2>&1 ||
  { cat "$work/initdb.log"; exit 1; }
as_user pg_ctl --silent --wait -D "$work/data" -l "$work/server.log" \
  -o "-p $port -k $work/socket -c listen_addresses=" start >/dev/null
value "$port" "SELECT version()"
sql "$port" <<'SQL'
CREATE TABLE customers AS SELECT n AS id, 'customer ' || n AS name FROM generate_series(1, 1000) AS n;
CREATE TABLE orders (id bigserial PRIMARY KEY, customer int NOT NULL, amount numeric NOT NULL, at timestamptz DEFAULT now());
INSERT INTO orders (customer, amount) SELECT 1 + n % 1000, 1 + n % 90 FROM generate_series(1, 200000) AS n;
SQL
tell "1,000 customers, 200,000 orders, stock settings: nothing was changed in postgresql.conf"

title "An agent beside it, with a directory as repository"
cat >"$work/agent.toml" <<TOML
cluster = "shop"

[postgres]
connection = "host=$work/socket port=$port user=postgres dbname=postgres"
bin_directory = "$pg_bin"

[repository]
url = "file://$work/repository"

[http]
socket = "$work/agent.sock"
TOML
[ ${#drop[@]} -eq 0 ] || chown "$user" "$work/agent.toml"
sed "s|$work|.|g; s/^/   /" "$work/agent.toml"
(exec_as_user "$work/bin/pitr-agent" run >"$work/agent.log" 2>&1 </dev/null) &
agent=$!
tell "its first backup begins by itself ..."
begin=$EPOCHREALTIME
for _ in {1..600}; do
  backups=$(as_user pitr info --json 2>/dev/null | grep -c '"stop_lsn"' || true)
  [ "$backups" = 0 ] || break
  kill -0 "$agent" 2>/dev/null || fail "the agent ended"
  sleep 0.2
done
[ "$backups" != 0 ] || fail "no backup after two minutes"
awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "first backup complete after %.1f s\n", b - a }'

title "Customers keep ordering while all this happens"
(exec_as_user psql -X -q -h "$work/socket" -p "$port" -U postgres >/dev/null 2>&1) <<'SQL' &
INSERT INTO orders (customer, amount) SELECT 1 + (random() * 999)::int, 1 + (random() * 89)::int FROM generate_series(1, 20);
\watch 0.1
SQL
load=$!
sleep 2
value "$port" "SELECT 'orders now: ' || count(*) FROM orders"

title "Release 42 is about to be deployed: the pipeline sets a marker"
before=$(value "$port" "SELECT count(*) FROM orders")
show pitr mark release-42 --meta sha=1f3a9c2 --meta by=pipeline
sleep 1

title "Release 42 is a bad one"
sql "$port" -c "DROP TABLE customers; UPDATE orders SET amount = 0; DELETE FROM orders WHERE id % 3 = 0;"
tell "it dropped customers, zeroed every amount and deleted a third of the orders; and orders keep coming in"
value "$port" "SELECT 'orders now: ' || count(*) || ', worth: ' || sum(amount) FROM orders WHERE id <= 200000"
sleep 1

title "Where do we stand?"
show pitr status

title "What would going back mean? (nothing is touched)"
show pitr restore --before release-42 --into "$work/restored" --dry-run

title "Back to just before release 42, beside the live server"
show pitr restore --before release-42 --into "$work/restored" --start --port "$restored_port" --yes

title "The rows are back"
sockets=$(sed -n 5p "$work/restored/postmaster.pid" | cut -d, -f1)
there() { as_user psql -X -q -h "$sockets" -p "$restored_port" -U postgres -At -c "$1"; }
customers=$(there "SELECT count(*) FROM customers")
orders=$(there "SELECT count(*) FROM orders")
spoilt=$(there "SELECT count(*) FROM orders WHERE amount = 0")
lost=$(there "SELECT 200000 - count(*) FROM orders WHERE id <= 200000")
printf '%-38s %10s %10s\n' "" "live" "restored"
printf '%-38s %10s %10s\n' "customers" "gone" "$customers"
printf '%-38s %10s %10s\n' "orders" "$(value "$port" "SELECT count(*) FROM orders")" "$orders"
printf '%-38s %10s %10s\n' "orders worth nothing" "$(value "$port" "SELECT count(*) FROM orders WHERE amount = 0")" "$spoilt"
if [ "$customers" != 1000 ] || [ "$orders" -lt "$before" ] || [ "$spoilt" != 0 ] || [ "$lost" != 0 ]; then
  fail "that is not what was there before release 42"
fi
printf '\n%sAll 1,000 customers, all %s orders that were in before the marker, none of the damage.%s\n' "$green" "$orders" "$plain"
tell "everything that was started is being stopped, everything that was made removed"
