#!/usr/bin/env bash
# Runs the long form of the tests in proofs/README.md and prints what was done. The short form is part of `cargo test`.
#
#   proofs/run.sh              all tests, about half an hour on two cores
#   proofs/run.sh 10           ten times as many rounds
#   FTX_SEED=7 proofs/run.sh   another seed for the random choices
set -euo pipefail
cd "$(dirname "$0")/.."
times=${1:-1}
FTX_NOT_RUN=$(mktemp)
export FTX_NOT_RUN
failed=()

proof() { # module of tests/suite, rounds
    printf '\n== %s\n' "$1"
    local begun=$SECONDS
    # A filter that matches no test would pass.
    [[ -f tests/suite/$1.rs ]] || { failed+=("$1"); return; }
    FTX_ROUNDS=$(($2 * times)) cargo test --locked --quiet --test suite "$1::" || failed+=("$1")
    printf '%s: %d s\n' "$1" $((SECONDS - begun))
}

proof flipped_bytes 2000
proof races 200
proof durability_order 30
proof syscall_faults 5000
proof kill 500
proof landing_steps 20
proof terminal_safety 2000
proof resume 60

printf '\n== combinations, with small parts\n'
FTX_ROUNDS=$((20000 * times)) cargo test --locked --quiet --features tiny-parts --test combinations || failed+=(combinations)

printf '\n== sender killed at 90 %%\n'
proofs/killed_late.sh || failed+=(killed_late)

if cargo +nightly fuzz --version >/dev/null 2>&1; then
    printf '\n== fuzz targets, %d s each\n' $((60 * times))
    fuzz/run.sh $((60 * times)) || failed+=(fuzz)
else
    echo "NOT RUN: fuzz: no nightly toolchain, or no cargo-fuzz" | tee -a "$FTX_NOT_RUN"
fi

printf '\n== tests that could not run here: %s\n' "$(wc -l <"$FTX_NOT_RUN")"
cat "$FTX_NOT_RUN"
rm -f "$FTX_NOT_RUN"
if ((${#failed[@]})); then
    printf 'FAILED: %s\n' "${failed[*]}"
    exit 1
fi
echo "all passed"
