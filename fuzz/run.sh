#!/usr/bin/env bash
# Fuzzes each target for SECONDS (default 60) and prints executions and findings at the end:
#
#   fuzz/run.sh [SECONDS] [TARGET...]
#
# Needs a nightly toolchain and cargo-fuzz. Uses one core at the lowest priority. Exits with 1 if there is a finding, which
# is written to fuzz/artifacts/TARGET. New inputs go to fuzz/work, which is not committed; fuzz/corpus is only read.
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
# The folders of the receivers, in memory if possible.
FTX_FUZZ_DIR=$(mktemp -d -p /dev/shm ftx-fuzz-XXXXXX 2>/dev/null || mktemp -d)
export FTX_FUZZ_DIR
trap 'rm -rf "$logs" "$FTX_FUZZ_DIR"' EXIT
lines=()
status=0
for target in "${targets[@]}"; do
    mkdir -p "fuzz/work/$target"
    seeds=()
    if [[ -d fuzz/corpus/$target ]]; then seeds+=("fuzz/corpus/$target"); fi
    # Valid and invalid frames.
    if [[ $target == headers ]]; then seeds+=(fixtures/wire); fi
    log=$logs/$target
    leaks=1
    # Threads of its sessions hold memory when the program ends, which would be reported as a leak.
    if [[ $target == whole_receiver ]]; then leaks=0; fi
    printf '\n== %s, %s s\n' "$target" "$seconds"
    # The fuzzer ends by itself after max_total_time; the timeout catches one that hangs.
    if ASAN_OPTIONS="detect_leaks=$leaks" timeout -k 10 $((seconds + 120)) \
        nice -n 19 cargo +nightly fuzz run "$target" "fuzz/work/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -detect_leaks="$leaks" -max_len=4096 -timeout=30 -rss_limit_mb=1024 \
        -print_final_stats=1 -verbosity=1 >"$log" 2>&1; then
        findings=none
    else
        findings="yes, in fuzz/artifacts/$target"
        # The failure, and the input as the target decoded it.
        grep -E -A 4 '^thread .* panicked|^==[0-9]+== ?ERROR|SUMMARY' "$log" || true
        sed -n '/^Output of `std::fmt::Debug`/,/^Reproduce with/p' "$log" | head -n 60
        status=1
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    line=$(printf '%-16s %10s executions, %6s edges, findings: %s' \
        "$target" "${executions:-?}" "${coverage:-?}" "$findings")
    echo "$line"
    lines+=("$line")
done

printf '\n== all, %s s each\n' "$seconds"
printf '%s\n' "${lines[@]}"
exit "$status"
