#!/usr/bin/env bash
# make-wal-samples.sh [MAJOR...]
#
# Makes the samples in pitr/testdata/wal/MAJOR that the library's tests decode: what a real server of each version writes
# when it commits, prepares, drops, truncates, copies databases and so on, and what it says of it itself. All versions from
# 13 to 18 unless given. Needs psql and zstd; takes about ten seconds a version.
#
#   wal.zst           WAL segments of 1 MiB, one after the other, from the one that ledger.txt names
#   ledger.txt        what was done, in the server's own numbers: transaction IDs, restore points, files, OIDs
#   records.tsv.zst   every record as pg_walinspect sees it (15 and later): start, previous, xid, manager, length
#   pg_control.zst, backup_label, tablespace_map   of the same server
#   pages.zst         the first pages of a table, with checksums
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
samples=$tools/../../pitr/testdata/wal
segment_size=$((1 << 20))
have zstd || die "needs zstd"
psql=$(command -v psql) || die "needs psql"

work=$(mktemp -d /tmp/wal-samples.XXXXXX)
running=
cleanup() {
  [ -z "$running" ] || pg_ctl -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT

# Servers refuse to run as root.
as_server() {
  if is_root; then setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; else "$@"; fi
}

pg_ctl() { as_server "$work/server/bin/pg_ctl" -D "$work/data" -w -s "$@"; }

q() { "$psql" -XAtq -v ON_ERROR_STOP=1 -h "$work" -p 5999 -U postgres -d postgres "$@"; }

lsn() { printf '%X/%X' $(($1 >> 32)) $(($1 & 0xFFFFFFFF)); }

note() { echo "$*" >>"$work/ledger.txt"; }

# start_server WAL_LEVEL
start_server() {
  running=1
  pg_ctl -l "$work/server.log" -o "-c listen_addresses='' -c unix_socket_directories='$work' -c port=5999 -c wal_level=$1" start
}

stop_server() {
  pg_ctl -m fast stop
  running=
}

# make_cluster MAJOR
make_cluster() {
  local home setting
  home=$("$tools/install-postgres.sh" "$1" 2>/dev/null)
  # Below a home directory that nobody else may enter, the server could not read its own programs.
  mkdir "$work/server"
  cp -a "$home/." "$work/server"
  chmod -R go+rX "$work/server"
  ! is_root || chown postgres: "$work"
  as_server "$work/server/bin/initdb" -D "$work/data" -U postgres -A trust -k -E UTF8 --locale=C --wal-segsize=1 >/dev/null
  for setting in autovacuum=off fsync=off full_page_writes=off wal_compression=on max_prepared_transactions=5 \
    checkpoint_timeout=1h max_wal_size=1GB wal_keep_size=100MB bgwriter_delay=10s; do
    echo "${setting/=/ = }"
  done | as_server tee -a "$work/data/postgresql.conf" >/dev/null
}

# prepared SUFFIX: one prepared transaction that is committed, with a subtransaction, and one that is rolled back.
prepared() {
  local xid
  xid=$(q -c BEGIN -c "SELECT txid_current()" -c "SAVEPOINT s" -c "UPDATE kept SET v = '$1' WHERE id = 60" -c "RELEASE s" \
    -c "PREPARE TRANSACTION 'kept $1'")
  note prepare "$xid" "kept $1"
  q -c "COMMIT PREPARED 'kept $1'"
  note commit_prepared "$xid" 1
  xid=$(q -c BEGIN -c "SELECT txid_current()" -c "UPDATE kept SET v = '$1' WHERE id = 61" -c "PREPARE TRANSACTION 'lost $1'")
  note prepare "$xid" "lost $1"
  q -c "ROLLBACK PREPARED 'lost $1'"
  note abort_prepared "$xid" 0
}

# The numbers behind transaction IDs count subtransactions: those released, and the parents of later ones.
transactions() {
  local xid
  xid=$(q -c BEGIN -c "SELECT txid_current()" -c "CREATE TABLE kept (id int PRIMARY KEY, v text)" \
    -c "INSERT INTO kept SELECT i, repeat('x', i % 50) FROM generate_series(1, 400) i" -c COMMIT)
  note commit "$xid" 0
  xid=$(q -c BEGIN -c "SELECT txid_current()" -c "SAVEPOINT a" -c "INSERT INTO kept VALUES (1001)" -c "SAVEPOINT b" \
    -c "INSERT INTO kept VALUES (1002)" -c "ROLLBACK TO b" -c "SAVEPOINT c" -c "INSERT INTO kept VALUES (1003)" -c COMMIT)
  note commit "$xid" 3
  xid=$(q -c BEGIN -c "SELECT txid_current()" -c "DELETE FROM kept WHERE id < 50" -c ROLLBACK)
  note abort "$xid" 0
  prepared replica
}

restore_point() { note restore_point "$(q -c "SELECT pg_create_restore_point('$1')")" "$1"; }

relations() {
  local table
  q -c "CREATE TABLE dropped (id int)" -c "INSERT INTO dropped VALUES (1)" -c "CREATE TABLE emptied (id int)" \
    -c "INSERT INTO emptied SELECT generate_series(1, 100)"
  for table in dropped emptied; do
    note dropped_relation "$(q -c "SELECT '1663/' || oid || '/' || pg_relation_filenode('$table') FROM pg_database
      WHERE datname = current_database()")"
  done
  q -c "DROP TABLE dropped" -c "TRUNCATE emptied"
  q -c "CREATE TABLE indexed (a int, b text, c int[], d point)" -c "CREATE INDEX ON indexed USING hash (b)" \
    -c "CREATE INDEX ON indexed USING gin (c)" -c "CREATE INDEX ON indexed USING gist (d)" \
    -c "CREATE INDEX ON indexed USING spgist (d)" -c "CREATE INDEX ON indexed USING brin (a)" \
    -c "INSERT INTO indexed SELECT i, i, ARRAY[i, i + 1], point(i, -i) FROM generate_series(1, 60) i" \
    -c "DELETE FROM indexed WHERE a % 3 = 0" -c "VACUUM indexed" -c "CREATE SEQUENCE counted" -c "SELECT nextval('counted')" \
    >/dev/null
}

# databases MAJOR
databases() {
  local strategy='' oid
  [ "$1" -lt 15 ] || strategy="STRATEGY file_copy"
  q -c "CREATE DATABASE copied TEMPLATE template0 $strategy"
  oid=$(q -c "SELECT oid FROM pg_database WHERE datname = 'copied'")
  q -c "DROP DATABASE copied"
  note create_database "$oid"
  note drop_database "$oid"
}

# backup MAJOR: a tablespace, and a backup for its label and its map, and for the record that ends it.
backup() {
  local oid start stop
  as_server mkdir "$work/table space"
  q -c "CREATE TABLESPACE spaced LOCATION '$work/table space'"
  oid=$(q -c "SELECT oid FROM pg_tablespace WHERE spcname = 'spaced'")
  note create_tablespace "$oid" "$work/table space"
  if [ "$1" -lt 15 ]; then
    start="pg_start_backup('sample', true, false)" stop="pg_stop_backup(false, false)"
  else
    start="pg_backup_start('sample', true)" stop="pg_backup_stop(false)"
  fi
  q -c "SELECT 'backup_start ' || $start" -c "CREATE TEMP TABLE stopped AS SELECT * FROM $stop" \
    -c "SELECT 'backup_stop ' || lsn FROM stopped" -c "\\o $work/backup_label" -c "SELECT labelfile FROM stopped" \
    -c "\\o $work/tablespace_map" -c "SELECT spcmapfile FROM stopped" >>"$work/ledger.txt" 2>/dev/null
  # psql ends a value with a newline of its own.
  truncate -s -1 "$work/backup_label" "$work/tablespace_map"
  q -c "DROP TABLESPACE spaced"
  note drop_tablespace "$oid"
}

# Page images, compressed and not; records of several pages, and of more than a segment.
images() {
  q -c "ALTER SYSTEM SET full_page_writes = on" -c "SELECT pg_reload_conf()" -c "CHECKPOINT" >/dev/null
  q -c "UPDATE kept SET v = 'compressed' WHERE id = 100" -c "CHECKPOINT" -c "SET wal_compression = off" \
    -c "UPDATE kept SET v = 'plain' WHERE id = 100"
  q -c "ALTER SYSTEM SET full_page_writes = off" -c "SELECT pg_reload_conf()" >/dev/null
  q -c "SELECT pg_logical_emit_message(false, 'sample', repeat('p', 30000))" \
    -c "SELECT pg_logical_emit_message(false, 'sample', repeat('s', 1300000))" >/dev/null
}

# What is only written at this wal_level: names of prepared transactions, top-level transactions of subtransactions.
logical() {
  local xid
  prepared logical
  xid=$(q -c BEGIN -c "SELECT txid_current()" -c "SAVEPOINT a" -c "INSERT INTO kept VALUES (2001)" -c "SAVEPOINT b" \
    -c "CREATE TABLE undone (id int)" -c "ROLLBACK TO b" -c COMMIT)
  note commit "$xid" 1
}

# records MAJOR START_LSN
records() {
  [ "$1" -ge 15 ] || return 0
  q -c "COPY (SELECT start_lsn, prev_lsn, xid, resource_manager, record_length
    FROM pg_get_wal_records_info('$2', pg_current_wal_flush_lsn())) TO STDOUT" | zstd -19 -q -o "$work/out/records.tsv.zst"
}

# make_sample MAJOR
make_sample() {
  local start end table number segment
  rm -rf "${work:?}"/*
  mkdir "$work/out"
  make_cluster "$1"
  start_server replica
  [ "$1" -lt 15 ] || q -c "CREATE EXTENSION pg_walinspect"
  q -c CHECKPOINT -c "SELECT pg_switch_wal()" >/dev/null
  start=$(q -c "SELECT pg_current_wal_insert_lsn() - '0/0'")
  start=$((start / segment_size * segment_size))
  note start "$(lsn "$start")"
  transactions
  restore_point release-41
  relations
  restore_point größe
  databases "$1"
  backup "$1"
  images
  stop_server
  start_server logical
  logical
  q -c "SELECT pg_switch_wal()" >/dev/null
  restore_point release-42
  q -c "INSERT INTO kept VALUES (3001)" -c CHECKPOINT
  end=$(q -c "SELECT pg_switch_wal() - '0/0'")
  records "$1" "$(lsn "$start")"
  table=$(q -c "SELECT pg_relation_filepath('kept')")
  stop_server
  for ((number = start / segment_size; number * segment_size < end; number++)); do
    printf -v segment '00000001%08X%08X' $((number / 4096)) $((number % 4096))
    cat "$work/data/pg_wal/$segment"
  done | zstd -19 -q -o "$work/out/wal.zst"
  zstd -19 -q <"$work/data/global/pg_control" >"$work/out/pg_control.zst"
  head -c 32768 "$work/data/$table" | zstd -19 -q -o "$work/out/pages.zst"
  mv "$work/ledger.txt" "$work/backup_label" "$work/tablespace_map" "$work/out"
  mkdir -p "$samples/$1"
  rm -f "$samples/$1"/*
  cp "$work/out"/* "$samples/$1"
  say "PostgreSQL $1: $(wc -l <"$samples/$1/ledger.txt") lines, $(du -sb "$samples/$1" | cut -f 1) bytes"
}

[ $# -gt 0 ] || set -- 13 14 15 16 17 18
for major in "$@"; do make_sample "$major"; done
