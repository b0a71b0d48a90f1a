#!/usr/bin/env bash
# Fuzzes each target for so many seconds, a minute by default, and prints executions and finds at the end:
#
#   fuzz/run.sh [SECONDS] [TARGET...]
#
# Needs a nightly toolchain and cargo-fuzz. One core, at the lowest priority. Ends with 1 if there is a find, which is then
# in fuzz/artifacts/TARGET. What a run discovers grows in fuzz/work, which is not kept; fuzz/corpus is only read.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=60
if [[ ${1-} =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "needed: rustup toolchain install nightly; cargo install --locked cargo-fuzz" >&2
    exit 2
fi
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(cargo +nightly fuzz list)
fi

nice -n 19 cargo +nightly fuzz build

logs=$(mktemp -d)
# The folders of the receivers; in memory, where there is such a file system.
FTX_FUZZ_DIR=$(mktemp -d -p /dev/shm ftx-fuzz-XXXXXX 2>/dev/null || mktemp -d)
export FTX_FUZZ_DIR
trap 'rm -rf "$logs" "$FTX_FUZZ_DIR"' EXIT
lines=()
status=0
for target in "${targets[@]}"; do
    mkdir -p "fuzz/work/$target"
    seeds=()
    if [[ -d fuzz/corpus/$target ]]; then seeds+=("fuzz/corpus/$target"); fi
    # Frames as they travel, good and bad ones.
    if [[ $target == headers ]]; then seeds+=(fixtures/wire); fi
    log=$logs/$target
    leaks=1
    # Its sessions have threads of their own: what one of them holds when the program ends would be taken for a leak.
    if [[ $target == whole_receiver ]]; then leaks=0; fi
    printf '\n== %s, %s s\n' "$target" "$seconds"
    # The fuzzer ends by itself; the timeout is for the case that it does not.
    if ASAN_OPTIONS="detect_leaks=$leaks" timeout -k 10 $((seconds + 120)) \
        nice -n 19 cargo +nightly fuzz run "$target" "fuzz/work/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -detect_leaks="$leaks" -max_len=4096 -timeout=30 -rss_limit_mb=1024 \
        -print_final_stats=1 -verbosity=1 >"$log" 2>&1; then
        finds=none
    else
        finds="SOMETHING, see fuzz/artifacts/$target"
        # What went wrong, and the input as the target sees it.
        grep -E -A 4 '^thread .* panicked|^==[0-9]+== ?ERROR|SUMMARY' "$log" || true
        sed -n '/^Output of `std::fmt::Debug`/,/^Reproduce with/p' "$log" | head -n 60
        status=1
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    line=$(printf '%-16s %10s executions, %6s edges, finds: %s' \
        "$target" "${executions:-?}" "${coverage:-?}" "$finds")
    echo "$line"
    lines+=("$line")
done

printf '\n== all, %s s each\n' "$seconds"
printf '%s\n' "${lines[@]}"
exit "$status"
