#!/usr/bin/env bash
# Runs the tests that any S3 store must pass against Garage (https://garagehq.deuxfleurs.fr/), an
# independent implementation of S3: a single node in a temporary folder, gone at the end.
#
#   tests/garage.sh [ARGUMENTS OF cargo test]
#
# Finds `garage` in PATH, or installs it by cargo (some minutes). Needs no root, but what the tests
# themselves need to mount.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=2.5.0
if ! command -v garage >/dev/null; then
  echo "garage.sh: no garage in PATH; installing $version with cargo"
  cargo install garage --version "$version" --locked
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

# A free port for each of its three listeners.
free_port() {
  local port
  while :; do
    port=$((RANDOM % 20000 + 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}
api=$(free_port)
rpc=$(free_port)
admin=$(free_port)

cat >"$folder/garage.toml" <<TOML
metadata_dir = "$folder/meta"
data_dir = "$folder/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$rpc"
rpc_public_addr = "127.0.0.1:$rpc"
rpc_secret = "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"

[s3_api]
api_bind_addr = "127.0.0.1:$api"
s3_region = "garage"

[admin]
api_bind_addr = "127.0.0.1:$admin"
TOML

garage() { command garage -c "$folder/garage.toml" "$@"; }

command garage -c "$folder/garage.toml" server >"$folder/log" 2>&1 &
server=$!
for _ in $(seq 100); do
  garage status >/dev/null 2>&1 && break
  if ! kill -0 "$server" 2>/dev/null; then
    echo "garage.sh: the server ended:" >&2
    cat "$folder/log" >&2
    exit 1
  fi
  sleep 0.1
done

node=$(garage node id -q 2>/dev/null | cut -d@ -f1)
garage layout assign -z here -c 10G "$node" >/dev/null
garage layout apply --version 1 >/dev/null
garage bucket create tenderfs-test >/dev/null
key=$(garage key create tenderfs-test)
garage bucket allow --read --write --owner tenderfs-test --key tenderfs-test >/dev/null

TENDERFS_TEST_ACCESS_KEY_ID=$(awk '/^Key ID:/ {print $3}' <<<"$key")
TENDERFS_TEST_SECRET_ACCESS_KEY=$(awk '/^Secret key:/ {print $3}' <<<"$key")
TENDERFS_TEST_ENDPOINT=http://127.0.0.1:$api
TENDERFS_TEST_REGION=garage
TENDERFS_TEST_BUCKET=tenderfs-test
export TENDERFS_TEST_ACCESS_KEY_ID TENDERFS_TEST_SECRET_ACCESS_KEY
export TENDERFS_TEST_ENDPOINT TENDERFS_TEST_REGION TENDERFS_TEST_BUCKET

echo "garage.sh: $(command garage --version) answers at $TENDERFS_TEST_ENDPOINT"
cargo test -p tenderfs-tests --test store_conformance "$@"
