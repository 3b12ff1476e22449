#!/bin/sh
# What S3 gives in each of three shuffled passes over a data set of which the cache holds a quarter, memory tier
# included, by the ledger of the lab. Reads go past the kernel's page cache (O_DIRECT).
#
#     bench/keeping.sh [auto|lru|pin] [files of 4 MiB]
#
# BANDWIDTH: of S3, a second (default 500M: a disk that is slower than S3 keeps less of the first pass).
# TENDERFS: the program (default target/measure/tenderfs). WORK: a folder on the disk to measure (default: a new one in
# TMPDIR). Prints a line of JSON for each pass.
set -eu
policy=${1:-auto}
files=${2:-1024}
tenderfs=$(realpath "${TENDERFS:-target/measure/tenderfs}")
work=${WORK:-$(mktemp -d)}
memory_mib=192
mkdir -p "$work/s3/data" "$work/mnt"
cd "$work"

ended() {
    mountpoint -q mnt && "$tenderfs" umount mnt
    [ -z "${lab:-}" ] || kill "$lab"
    rm -rf s3 cache
}
trap ended EXIT INT TERM

for number in $(seq "$files"); do
    head -c 4194304 /dev/urandom > "s3/data/$(printf %05d "$number").bin"
done
"$tenderfs" lab --folder s3 --total-bandwidth "${BANDWIDTH:-500M}" --listen 127.0.0.1:9017 --control 127.0.0.1:9018 > lab.out 2>&1 &
lab=$!
for _ in $(seq 100); do
    grep -q AWS_REGION lab.out && break
    sleep 0.1
done
export AWS_ENDPOINT_URL=http://127.0.0.1:9017 AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=tenderfs AWS_SECRET_ACCESS_KEY=tenderfs-secret
disk_mib=$((files - memory_mib))
"$tenderfs" mount s3://data mnt --cache-dir "$work/cache" --cache-size "${disk_mib}MiB" \
    --memory-limit "${memory_mib}MiB" --cache-policy "$policy" ${OPTIONS:-}

from_s3() {
    curl -s http://127.0.0.1:9018/stats | sed -n 's/.*"body_bytes": *\([0-9]*\).*/\1/p'
}

before=$(from_s3)
for epoch in 1 2 3; do
    seq "$files" | shuf --random-source="$(
        yes "$epoch" | head -c 1048576 > "order$epoch"
        echo "order$epoch"
    )" | while read -r number; do
        dd "if=mnt/$(printf %05d "$number").bin" of=/dev/null bs=1M iflag=direct status=none
    done
    now=$(from_s3)
    echo "$before $now $files" | awk -v policy="$policy" -v epoch="$epoch" \
        '{ printf "{\"policy\":\"%s\",\"epoch\":%d,\"s3_part\":%.3f}\n", policy, epoch, ($2 - $1) / ($3 * 4194304) }'
    before=$now
done
