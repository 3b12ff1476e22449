#!/usr/bin/env bash
# Runs the tests that any S3 store must pass against Moto (https://docs.getmoto.org/), which imitates AWS for
# tests of others and checks no signatures.
#
#   tests/moto.sh [ARGUMENTS OF cargo test]
#
# Finds `moto_server` in PATH: pip install 'moto[server]'.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v moto_server >/dev/null; then
  echo "moto.sh: no moto_server in PATH: pip install 'moto[server]'" >&2
  exit 1
fi

folder=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$folder"
}
trap finish EXIT

while :; do
  port=$((RANDOM % 20000 + 20000))
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
moto_server -H 127.0.0.1 -p "$port" >"$folder/moto.log" 2>&1 &
server=$!
for _ in $(seq 100); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  sleep 0.1
done

export TENDERFS_TEST_ENDPOINT="http://127.0.0.1:$port"
export TENDERFS_TEST_REGION=us-east-1
export TENDERFS_TEST_BUCKET=tenderfs-conformance
export TENDERFS_TEST_ACCESS_KEY_ID=testing
export TENDERFS_TEST_SECRET_ACCESS_KEY=testing
curl --silent --show-error --fail --request PUT "$TENDERFS_TEST_ENDPOINT/$TENDERFS_TEST_BUCKET" >/dev/null
cargo test --workspace --test store_conformance "$@"
