#!/usr/bin/env bash
# run-tests.sh [STAGE...]
#
# Runs the tests in stages and ends with one line, `N passed, M failed`. Stages, all of them unless named:
#
#   unit         every crate's own tests
#   doc          the examples in the documentation
#   conformance  the suite of the object store port against a real S3 server
#   e2e          the product on real PostgreSQL and S3 servers
#
# A scenario of e2e that fails gets a second attempt, so that a crowded machine does not hide what the other two hundred
# say. The last lines name those that needed it: each is a defect, of the product or of its test. More than two fail the
# run. RETRIES=0 gives no second attempt.
#
# Uses cargo-nextest where it is installed, else cargo test. With REQUIRE_E2E=1 a test that can't run here fails
# instead of being passed over. PITR_TEST_MAJORS names the PostgreSQL versions of the scenarios that run on each ("15 17 18"). Words after "--" go to
# the runner of every stage, e.g. a part of a test's name.
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$tools/../.."
# Errors say by themselves where they come from; a trace of the async machinery hides that.
export RUST_LIB_BACKTRACE=0

stages=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  stages+=("$1")
  shift
done
[ $# -eq 0 ] || shift
extra=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(unit doc conformance e2e)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 broken=() unsteady=()
locked=()
[ -z "${CI:-}" ] || locked=(--locked)
runner=test
if cargo nextest --version >/dev/null 2>&1; then runner=nextest; else say "cargo-nextest is not installed: using cargo test"; fi

# Adds up what the runners say of themselves: nextest's last line, or one line for each test binary of cargo test.
count() {
  local sums
  sums=$(sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
    /^ *Summary \[.*tests? run:/ { seen = 1; if (match($0, /[0-9]+ passed/)) p += substr($0, RSTART)
      if (match($0, /[0-9]+ failed/)) f += substr($0, RSTART)
      if (match($0, /[0-9]+ timed out/)) f += substr($0, RSTART)
      if (match($0, /[0-9]+ exec failed/)) f += substr($0, RSTART) }
    /^test result:/ { seen = 1; if (match($0, /[0-9]+ passed/)) p += substr($0, RSTART)
      if (match($0, /[0-9]+ failed/)) f += substr($0, RSTART) }
    END { print p + 0, f + 0, seen + 0 }')
  echo "$sums"
}

# stage NAME COMMAND...
stage() {
  local name=$1 log=$work/$1 code=0 p f seen
  shift
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee "$log" || code=$?
  read -r p f seen <<<"$(count "$log")"
  if [ "$code" != 0 ] && [ "$f" = 0 ]; then f=1; fi
  if [ "$seen" = 0 ] && [ "$code" = 0 ]; then say "$name ran no tests"; f=1; fi
  if [ "$name" = e2e ]; then
    mapfile -t unsteady < <(sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '/^ *FLAKY [0-9]/ { print $NF }' | sort -u)
    [ ${#unsteady[@]} -le 2 ] || f=$((f + ${#unsteady[@]})) p=$((p - ${#unsteady[@]}))
  fi
  passed=$((passed + p)) failed=$((failed + f))
  [ "$f" = 0 ] || broken+=("$name")
}

# Whole workspace always: choosing packages would choose other features of their dependencies and build those again.
suite() { # TARGETS, as cargo takes them
  if [ "$runner" = nextest ]; then
    cargo nextest run --workspace "${locked[@]}" --no-fail-fast "$@" "${extra[@]}" </dev/null
  else
    cargo test --workspace "${locked[@]}" --no-fail-fast "$@" -- "${extra[@]}" </dev/null
  fi
}

unit() {
  if [ "$runner" = nextest ]; then
    suite --lib --bins --tests -E 'not (binary(e2e) | binary(s3_conformance))'
  else
    suite --exclude pitr-tests --lib --bins --tests
  fi
}

doc() {
  cargo test --workspace "${locked[@]}" --doc </dev/null
}

conformance() {
  "$tools/with-s3.sh" "$tools/run-tests.sh" --one -- "${extra[@]}"
}

e2e() {
  cargo build --workspace --bins "${locked[@]}" </dev/null || return 1
  # Scenarios of versions that this run leaves out are not even listed: a test that does nothing must not count.
  local others="" major filter="all()"
  for major in 13 14 15 16 17 18; do
    case " ${PITR_TEST_MAJORS:-15 17 18} " in *" $major "*) ;; *) others+="${others:+|}$major" ;; esac
  done
  [ -z "$others" ] || filter="not test(/_on_($others)_/)"
  if [ "$runner" = nextest ]; then
    suite --test e2e -E "$filter" --retries "${RETRIES:-1}"
  else
    # The harness of cargo test has no configuration: two servers' worth of tests at a time.
    RUST_TEST_THREADS=2 suite --test e2e
  fi
}

# The command that with-s3.sh runs is this script again.
if [ "${stages[0]}" = --one ]; then
  suite --test s3_conformance
  exit
fi

for name in "${stages[@]}"; do
  case "$name" in
    unit | doc | conformance | e2e) stage "$name" "$name" ;;
    *) die "no stage $name: unit, doc, conformance, e2e" ;;
  esac
done

printf '\nran: %s\n' "${stages[*]}"
[ ${#unsteady[@]} -eq 0 ] || printf 'needed a second attempt: %s\n' "${unsteady[@]}"
[ ${#broken[@]} -eq 0 ] || printf 'failed in: %s\n' "${broken[*]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
