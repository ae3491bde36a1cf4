#!/usr/bin/env bash
# with-s3.sh COMMAND...
#
# Runs a command with an S3 server of its own: SeaweedFS on the loopback address with one bucket, in a fresh directory.
# The command finds PITR_TEST_S3_ENDPOINT, PITR_TEST_S3_BUCKET and the AWS_* credentials in its environment, and the same
# server over TLS as PITR_TEST_S3_TLS_ENDPOINT with its authority in PITR_TEST_S3_CA_FILE. The server ends with the
# command, and its exit code is the command's.
set -euo pipefail
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ $# -gt 0 ] || { say "usage: $self COMMAND..."; exit 2; }

weed=$("$(dirname "${BASH_SOURCE[0]}")/install-s3.sh")
work=$(mktemp -d "${TMPDIR:-/tmp}/pitr-s3-XXXXXX")
server='' base=''
# It takes its time to stop in order, and nothing here is kept.
stop() {
  [ -z "$server" ] || { kill -KILL "$server" && wait "$server"; } 2>/dev/null || true
  server=
  # Its sockets, which it puts there by itself.
  [ -z "$base" ] || for port in {0..10}; do rm -f /tmp/seaweedfs-*-$((base + port)).sock; done
}
cleanup() {
  stop
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export AWS_ACCESS_KEY_ID=pitrtestaccesskey AWS_SECRET_ACCESS_KEY=pitr-test-secret-key AWS_REGION=us-east-1
export AWS_EC2_METADATA_DISABLED=true PITR_TEST_S3_BUCKET=conformance
cat >"$work/identities.json" <<JSON
{"identities": [{"name": "pitr", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}]}]}
JSON

# An authority of its own, and a certificate of it for the server.
certify() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=pitr-test-ca -keyout ca.key -out ca.crt &&
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr &&
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >server.ext &&
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.crt
}
(cd "$work" && certify) >"$work/openssl.log" 2>&1 || { cat "$work/openssl.log" >&2; die "openssl makes no certificate"; }
export PITR_TEST_S3_CA_FILE=$work/ca.crt

# await WHAT COMMAND...: until the command succeeds, as long as the server runs.
await() {
  local what=$1 deadline=$((SECONDS + 40))
  shift
  until "$@"; do
    kill -0 "$server" 2>/dev/null || return 1
    [ "$SECONDS" -lt "$deadline" ] || { say "waited in vain for $what"; return 1; }
    sleep 0.2
  done
}

# A block of ports of our own: another server that starts meanwhile would take one of them, so try again elsewhere.
start() {
  local name port=0 arguments=()
  base=$((10000 + RANDOM % 10000))
  for name in s3.port s3.port.grpc s3.port.iceberg s3.port.lance master.port master.port.grpc filer.port \
    filer.port.grpc volume.port volume.port.grpc s3.port.https; do
    arguments+=("-$name=$((base + port))")
    port=$((port + 1))
  done
  rm -rf "$work/store"
  mkdir "$work/store"
  (cd "$work" && TMPDIR=$work exec "$weed" -logdir="$work" server -dir="$work/store" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.autoCreateBucket=false \
    -iam=false -volume.max=100 -master.volumeSizeLimitMB=256 -s3.config="$work/identities.json" \
    -s3.cert.file="$work/server.crt" -s3.key.file="$work/server.key" "${arguments[@]}") \
    >"$work/log" 2>&1 </dev/null 9>&- &
  server=$!
  await "s3" curl -s -o /dev/null "http://127.0.0.1:$base/" &&
    await "a bucket" curl -sf -o /dev/null -X POST "http://127.0.0.1:$((base + 6))/buckets/$PITR_TEST_S3_BUCKET/" || return 1
  export PITR_TEST_S3_ENDPOINT=http://127.0.0.1:$base PITR_TEST_S3_TLS_ENDPOINT=https://localhost:$((base + 10))
}
for attempt in 1 2 3; do
  if start; then break; fi
  stop
  [ "$attempt" -lt 3 ] || { tail -20 "$work/log" >&2; die "the S3 server does not start"; }
done

code=0
"$@" || code=$?
exit "$code"
