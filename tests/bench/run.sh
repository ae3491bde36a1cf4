#!/usr/bin/env bash
# run.sh
#
# Compares with pgBackRest: a whole backup and a restore; the next backup after nothing, 1 % and 10 % have changed, in one
# place or all over; a restore after many small backups (against one after a whole one); waiting WAL into the repository (streaming against the asynchronous
# archive-push), a segment out of it and replay (against archive-get, and cp from a local directory); and measures the time from
# a commit to its being durable, what commits cost that wait for it, and the decoder. Same data, same workers, tools in turn,
# medians; prints the figures, and writes all of them to target/bench. Knobs, as environment variables:
#
#   BENCH_PARTS="backup incremental fragments archive feed loss" (and "decode", which compiles a benchmark)
#   BENCH_SEGMENTS=32 (of 16 MB)  BENCH_INCREMENTALS=100 (before the restore that follows them)
#   BENCH_LARGE_GB=0 (20: the agent's memory with so much sparse data)
#   BENCH_RUNS=3  BENCH_SCALE=100 (pgbench, 15 MB each)  BENCH_TABLES=5000  BENCH_WORKERS=2
#   BENCH_STORES="local s3"  BENCH_TOOLS="pgbackrest pitr pitr-1"
#   PGBACKREST=/path/of/another/pgbackrest (default: Debian's)  PITR_BIN_DIR=/path/of/built/binaries
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
cd "$here/../.."
# Errors say by themselves where they come from; a trace of the async machinery hides that.
export RUST_LIB_BACKTRACE=0

"$here/../tools/setup.sh" 15
if [ -z "${PGBACKREST:-}" ]; then
  have pgbackrest || apt_install pgbackrest || exit 1
fi
target=${CARGO_TARGET_DIR:-target}
if [ -z "${PITR_BIN_DIR:-}" ] && [[ " ${BENCH_TOOLS:-pitr} " == *pitr* ]]; then
  cargo build --release -p pitr-agent -p pitr-cli --bins
  PITR_BIN_DIR=$(cd "$target/release" && pwd)
fi
export PITR_BIN_DIR
cargo build --quiet -p pitr-tests --bin pitr-bench
mkdir -p "$target/bench"
"$target/debug/pitr-bench" "$target/bench"
if [[ " ${BENCH_PARTS:-} " == *" decode "* ]]; then
  cargo bench --quiet -p pitr --no-default-features --bench wal_decoder -- "$PWD/$target/bench/wal"
fi
