#!/usr/bin/env bash
# Kills the sender of a large file when 90 % of it has arrived, and sends the file again at once, while the receiver still
# writes to the disk: at most 11 % of the bytes may be transferred again, as counted by the loopback device.
#
#   proofs/killed_late.sh             1 GiB below /var/tmp
#   proofs/killed_late.sh 10 /mnt/x   10 GiB below /mnt/x, which needs space for two copies
set -euo pipefail
cd "$(dirname "$0")/.."
gib=${1:-1}
work=$(mktemp -d "${2:-/var/tmp}/ftx-killed-late.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
cargo build --release --locked --quiet
ftx=${CARGO_TARGET_DIR:-target}/release/ftx

size=$((gib << 30))
# Incompressible and reproducible.
openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0 -in /dev/zero 2>/dev/null |
    head -c "$size" >"$work/disk.img" || true
sync -f "$work/disk.img"

"$ftx" recv --bind 127.0.0.1 --port 0 --out "$work/out" >"$work/received" 2>&1 &
until port=$(grep -oPm1 'Listening on \K[0-9.]+:[0-9]+' "$work/received"); do sleep 0.05; done

now() { date +%s.%N; }
stored_bytes() { du -sB1 "$work/out" 2>/dev/null | cut -f1; }
begun=$(now)
"$ftx" send --retries 0 "$work/disk.img" "$port" >"$work/sent" 2>&1 &
sender=$!
while (($(stored_bytes) < size / 10 * 9)); do
    kill -0 $sender || { echo "the sender ended before it could be killed:"; cat "$work/sent"; exit 1; }
    sleep 0.01
done
{ kill -9 $sender && wait $sender; } 2>/dev/null || true
printf 'killed after %.1f s with %d of %d bytes stored\n' "$(bc <<<"$(now) - $begun")" "$(stored_bytes)" "$size"

loopback_bytes() { cat /sys/class/net/lo/statistics/rx_bytes; }
before=$(loopback_bytes) begun=$(now)
"$ftx" send "$work/disk.img" "$port"
moved=$(($(loopback_bytes) - before))
printf 'sent again at once: %d bytes, %.1f %%, in %.1f s\n' \
    "$moved" "$(bc -l <<<"100 * $moved / $size")" "$(bc <<<"$(now) - $begun")"
cmp "$work/disk.img" "$work/out/disk.img"
((moved <= size / 100 * 11)) || { echo "FAILED: more than 11 % was transferred again"; exit 1; }
