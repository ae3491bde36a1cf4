#!/usr/bin/env bash
# make-wal-oracle.sh [MAJOR...]
#
# Makes pitr/testdata/wal-oracle/MAJOR: a varied workload's WAL, and what PostgreSQL's own tools read in it, against which
# the library's WAL summaries are held. All versions from 13 to 18 unless given. Needs psql, zstd and pg_waldump.
#
#   wal.zst           WAL segments of 1 MiB, one after the other, from the one that ledger.txt names
#   records.tsv.zst   every record as pg_waldump lists it: start, resource manager, transaction, description with blocks
#   summaries.tsv.zst what the server's own summarizer found (17 and later)
#   ledger.txt        what was done: rows changed by relation, moments, files
#
# PITR_WALDUMP_<MAJOR> names a pg_waldump that is not beside the server (packages of servers often lack it). For 14 that of
# 13 does: the page magic is the only thing it would stumble over, so it reads a copy with its own.
# WAL_ORACLE_OUT=DIR writes below DIR instead; WAL_ORACLE_FULL=1 adds pgbench, a database copied through the WAL, and page
# images, which are too large to keep. PITR_WAL_ORACLE=DIR makes the test read them.
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${WAL_ORACLE_OUT:-$tools/../../pitr/testdata/wal-oracle}
full=${WAL_ORACLE_FULL:-}
level=19
[ -z "$full" ] || level=3
segment_size=$((1 << 20))
have zstd || die "needs zstd"
psql=$(command -v psql) || die "needs psql"

work=$(mktemp -d /tmp/wal-oracle.XXXXXX)
running=
cleanup() {
  [ -z "$running" ] || pg_ctl -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT

as_server() {
  if is_root; then setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; else "$@"; fi
}

pg_ctl() { as_server "$work/server/bin/pg_ctl" -D "$work/data" -w -s "$@"; }

q() { "$psql" -XAtq -v ON_ERROR_STOP=1 -h "$work" -p 5998 -U postgres -d postgres "$@"; }

lsn() { printf '%X/%X' $(($1 >> 32)) $(($1 & 0xFFFFFFFF)); }

note() { echo "$*" >>"$work/ledger.txt"; }

relation() { q -c "SELECT '1663/' || oid || '/' || pg_relation_filenode('$1') FROM pg_database WHERE datname = current_database()"; }

# make_cluster MAJOR
make_cluster() {
  local home setting images=off summarize=
  home=$("$tools/install-postgres.sh" "$1" 2>/dev/null)
  mkdir "$work/server"
  cp -a "$home/." "$work/server"
  chmod -R go+rX "$work/server"
  ! is_root || chown postgres: "$work"
  as_server "$work/server/bin/initdb" -D "$work/data" -U postgres -A trust -E UTF8 --locale=C --wal-segsize=1 >/dev/null
  [ -z "$full" ] || images=on
  [ "$1" -lt 17 ] || summarize=summarize_wal=on
  for setting in autovacuum=off fsync=off full_page_writes=$images max_prepared_transactions=5 checkpoint_timeout=1h \
    max_wal_size=4GB wal_keep_size=1GB wal_level=replica $summarize; do
    echo "${setting/=/ = }"
  done | as_server tee -a "$work/data/postgresql.conf" >/dev/null
  running=1
  pg_ctl -l "$work/server.log" -o "-c listen_addresses='' -c unix_socket_directories='$work' -c port=5998" start
}

# Whose numbers of rows are known. Each kind of change once, in transactions, subtransactions and prepared ones, kept and
# rolled back.
rows() {
  q -c "CREATE TABLE counted (id int PRIMARY KEY, v text, fixed int)" -c "CREATE TABLE parted (id int, k int) PARTITION BY LIST (k)" \
    -c "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1)" -c "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2)"
  q -c "INSERT INTO counted SELECT i, 'one by one', 0 FROM generate_series(1, 1000) i"
  seq 1001 1500 | q -c "COPY counted (id) FROM STDIN"
  q -c "UPDATE counted SET v = 'not indexed' WHERE id <= 100" -c "UPDATE counted SET id = id + 10000 WHERE id BETWEEN 101 AND 150" \
    -c "DELETE FROM counted WHERE id BETWEEN 200 AND 229"
  q -c "INSERT INTO counted VALUES (2000, 'new', 0), (1, 'there already', 0) ON CONFLICT (id) DO UPDATE SET v = 'merged'"
  q -c BEGIN -c "INSERT INTO counted VALUES (3000)" -c "SAVEPOINT a" -c "INSERT INTO counted VALUES (3001), (3002)" \
    -c "ROLLBACK TO a" -c "SAVEPOINT b" -c "INSERT INTO counted VALUES (3003)" -c "DELETE FROM counted WHERE id = 300" -c COMMIT
  q -c BEGIN -c "DELETE FROM counted" -c ROLLBACK
  q -c BEGIN -c "UPDATE counted SET fixed = 1 WHERE id = 400" -c "SAVEPOINT s" -c "INSERT INTO counted VALUES (4000)" \
    -c "PREPARE TRANSACTION 'kept'"
  q -c "SELECT pg_switch_wal()" -c CHECKPOINT >/dev/null
  q -c "COMMIT PREPARED 'kept'"
  q -c BEGIN -c "INSERT INTO counted VALUES (5000)" -c "PREPARE TRANSACTION 'lost'" -c "ROLLBACK PREPARED 'lost'"
  q -c "INSERT INTO parted SELECT i, 1 FROM generate_series(1, 40) i" -c "UPDATE parted SET k = 2 WHERE id <= 7"
  # inserted: 1000 + 500 + 1 + 1 + 1 + 1; updated: 100 + 50 + 1 + 1; deleted: 30 + 1
  note rows "$(relation counted)" 1504 152 31 0
  note rows "$(relation parted_1)" 40 0 7 7
  note rows "$(relation parted_2)" 7 0 0 0
}

# Many subtransactions: more than the server keeps in memory.
subtransactions() {
  q <<'SQL'
CREATE TABLE nested (id int);
DO $$ BEGIN
  FOR i IN 1..150 LOOP
    BEGIN INSERT INTO nested VALUES (i); IF i % 3 = 0 THEN RAISE EXCEPTION 'undone'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL; END;
  END LOOP;
END $$;
SQL
  note rows "$(relation nested)" 100 0 0 0
}

# Two sessions that insert the same key: the later one's insertion is speculative, and taken back.
speculative() {
  local one two
  q -c "CREATE TABLE contended (id int, v int)" -c "CREATE UNIQUE INDEX ON contended (id)"
  for one in 1 2 3 4; do
    (for two in $(seq 1 20); do echo "INSERT INTO contended SELECT i, $two FROM generate_series(1, 40) i ON CONFLICT DO NOTHING;"; done) | q &
  done
  wait
  note rows "$(relation contended)" 40 0 0 0
}

access_methods() {
  q <<'SQL'
CREATE TABLE indexed (a int, b text, c int[], d point, e tsvector, f int4range);
CREATE INDEX indexed_btree ON indexed (a);
CREATE INDEX indexed_hash ON indexed USING hash (b);
CREATE INDEX indexed_gin ON indexed USING gin (c);
CREATE INDEX indexed_gist ON indexed USING gist (d);
CREATE INDEX indexed_spgist ON indexed USING spgist (f);
CREATE INDEX indexed_brin ON indexed USING brin (a) WITH (pages_per_range = 2);
INSERT INTO indexed SELECT i, 'text ' || i, ARRAY[i, i % 7], point(i, -i), to_tsvector('simple', 'w' || i), int4range(i, i + 5)
  FROM generate_series(1, 700) i;
UPDATE indexed SET b = b || '!', d = point(a, a) WHERE a % 5 = 0;
DELETE FROM indexed WHERE a % 3 = 0;
VACUUM indexed;
INSERT INTO indexed SELECT i, 'more ' || i, ARRAY[i], point(i, i), NULL, int4range(i, i + 1) FROM generate_series(1, 200) i;
REINDEX TABLE indexed;
CLUSTER indexed USING indexed_btree;
VACUUM (FULL, ANALYZE) indexed;
CREATE TABLE shrunk AS SELECT i, repeat('x', 200) AS v FROM generate_series(1, 2000) i;
VACUUM shrunk;
DELETE FROM shrunk WHERE i > 500;
VACUUM shrunk;
SQL
}

schema() {
  local table
  q <<'SQL' >/dev/null
CREATE TABLE dropped (id int); INSERT INTO dropped VALUES (1);
CREATE TABLE emptied (id int); INSERT INTO emptied SELECT generate_series(1, 100);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); INSERT INTO unlogged SELECT generate_series(1, 100);
CREATE TABLE toasted (id int, v text); ALTER TABLE toasted ALTER v SET STORAGE external;
INSERT INTO toasted SELECT i, repeat('toast', 1000) FROM generate_series(1, 5) i;
SQL
  for table in dropped emptied; do note dropped_relation "$(relation "$table")"; done
  q <<'SQL' >/dev/null
DROP TABLE dropped;
TRUNCATE emptied;
ALTER TABLE unlogged SET LOGGED;
ALTER TABLE toasted SET UNLOGGED;
ALTER TABLE emptied ADD COLUMN v text DEFAULT 'x';
CREATE VIEW seen AS SELECT * FROM emptied;
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE SEQUENCE numbers; SELECT nextval('numbers') FROM generate_series(1, 50);
CREATE MATERIALIZED VIEW kept AS SELECT * FROM emptied; REFRESH MATERIALIZED VIEW kept;
SELECT lo_create(4711); SELECT lowrite(lo_open(4711, 131072), 'large') ; SELECT lo_unlink(4711);
BEGIN; CREATE TABLE undone (id int); INSERT INTO undone VALUES (1); ROLLBACK;
BEGIN; CREATE TABLE two_phase (id int); DROP TABLE emptied CASCADE; PREPARE TRANSACTION 'schema'; COMMIT PREPARED 'schema';
VACUUM FULL pg_class;
ANALYZE;
SQL
}

# databases MAJOR
databases() {
  local strategies=('') strategy oid
  [ "$1" -lt 15 ] || strategies=("STRATEGY file_copy")
  [ "$1" -lt 15 ] || [ -z "$full" ] || strategies+=("STRATEGY wal_log")
  as_server mkdir "$work/space"
  q -c "CREATE TABLESPACE spaced LOCATION '$work/space'"
  for strategy in "${strategies[@]}"; do
    q -c "CREATE DATABASE copied TEMPLATE template0 $strategy"
    oid=$(q -c "SELECT oid FROM pg_database WHERE datname = 'copied'")
    note database "$oid"
    q -c "ALTER DATABASE copied SET TABLESPACE spaced"
    q -c "DROP DATABASE copied"
  done
  q -c "CREATE TABLE elsewhere (id int) TABLESPACE spaced" -c "INSERT INTO elsewhere VALUES (1)" \
    -c "ALTER TABLE elsewhere SET TABLESPACE pg_default" -c "DROP TABLESPACE spaced"
  q -c "SELECT pg_create_restore_point('oracle')" >/dev/null
}

benchmark() {
  local pgbench
  pgbench=$(command -v pgbench || echo /usr/lib/postgresql/15/bin/pgbench)
  "$pgbench" -h "$work" -p 5998 -U postgres -i -s 2 -q postgres >/dev/null 2>&1
  "$pgbench" -h "$work" -p 5998 -U postgres -c 4 -T 5 postgres >/dev/null 2>&1
  q -c CHECKPOINT
  "$pgbench" -h "$work" -p 5998 -U postgres -c 4 -T 5 postgres >/dev/null 2>&1
}

# What the server's summarizer found; it follows at its own pace, up to the redo point of the last checkpoint.
summaries() {
  local redo
  redo=$(q -c CHECKPOINT -c "SELECT redo_lsn FROM pg_control_checkpoint()")
  until [ "$(q -c "SELECT coalesce(max(end_lsn), '0/0') >= '$redo' FROM pg_available_wal_summaries()")" = t ]; do sleep 0.2; done
  q -c "COPY (SELECT s.start_lsn, s.end_lsn, c.reltablespace, c.reldatabase, c.relfilenode, c.relforknumber, c.relblocknumber,
      c.is_limit_block FROM pg_available_wal_summaries() s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c
    WHERE s.start_lsn >= '$1' ORDER BY 1, 3, 4, 5, 6, 8, 7) TO STDOUT" | zstd "-$level" -q -o "$work/out/summaries.tsv.zst"
}

# records MAJOR START END
records() {
  local dump=PITR_WALDUMP_$1 directory=$work/data/pg_wal
  dump=${!dump:-$work/server/bin/pg_waldump}
  if [ "$("$dump" --version | sed 's/.* \([0-9]*\).*/\1/')" = 13 ] && [ "$1" = 14 ]; then
    mkdir "$work/patched"
    for segment in "$directory"/????????????????????????; do
      perl -0777 -pe 'for (my $at = 0; $at < length; $at += 8192) { substr($_, $at, 2) = "\x06\xd1" if substr($_, $at, 2) eq "\x0d\xd1" }' \
        "$segment" >"$work/patched/${segment##*/}"
    done
    directory=$work/patched
  fi
  TZ=UTC "$dump" -p "$directory" -s "$2" -e "$3" 2>"$work/dump.err" |
    sed -nE 's/^rmgr: (\S+) .* tx: +([0-9]+), lsn: ([0-9A-F]+\/[0-9A-F]+), prev [^ ]+, desc: (.*)$/\3\t\1\t\2\t\4/p' |
    zstd "-$level" -q -o "$work/out/records.tsv.zst"
}

# make_oracle MAJOR
make_oracle() {
  local start end number segment
  rm -rf "${work:?}"/*
  mkdir "$work/out"
  make_cluster "$1"
  q -c CHECKPOINT -c "SELECT pg_switch_wal()" >/dev/null
  start=$(q -c "SELECT pg_current_wal_insert_lsn() - '0/0'")
  start=$((start / segment_size * segment_size))
  note start "$(lsn "$start")"
  # The summarizer cuts where checkpoints begin.
  q -c "CREATE TABLE first (id int)" -c CHECKPOINT
  rows
  subtransactions
  speculative
  access_methods
  schema
  databases "$1"
  [ -z "$full" ] || benchmark
  [ "$1" -lt 17 ] || summaries "$(lsn "$start")"
  q -c "INSERT INTO first VALUES (1)" -c CHECKPOINT
  end=$(q -c "SELECT pg_switch_wal() - '0/0'")
  q -c "INSERT INTO first VALUES (2)"
  note end "$(lsn "$end")"
  pg_ctl -m fast stop
  running=
  records "$1" "$(lsn "$start")" "$(lsn "$end")"
  for ((number = start / segment_size; number * segment_size < end; number++)); do
    printf -v segment '00000001%08X%08X' $((number / 4096)) $((number % 4096))
    cat "$work/data/pg_wal/$segment"
  done | zstd "-$level" -q -o "$work/out/wal.zst"
  mv "$work/ledger.txt" "$work/out"
  mkdir -p "$out/$1"
  rm -f "$out/$1"/*
  cp "$work/out"/* "$out/$1"
  say "PostgreSQL $1: $(zstd -dcq "$out/$1/records.tsv.zst" | wc -l) records, $(du -sb "$out/$1" | cut -f 1) bytes"
}

[ $# -gt 0 ] || set -- 13 14 15 16 17 18
for major in "$@"; do make_oracle "$major"; done
