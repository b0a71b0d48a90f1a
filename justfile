# Short names for the commands in CONTRIBUTING.md. `just` lists them; everything works without `just` as well.

# List the recipes.
[private]
default:
    @just --list --unsorted

# Run all tests: unit, integration, documentation.
[group('test')]
test:
    cargo test --locked

# Run the tests whose path contains PATTERN, such as `resume::` or a test's name.
[group('test')]
filter PATTERN:
    cargo test --locked --lib --test suite {{ PATTERN }}

# Run random sessions with small parts: 400 of them, or ROUNDS.
[group('test')]
combinations ROUNDS="400":
    FTX_ROUNDS={{ ROUNDS }} cargo test --locked --features tiny-parts --test combinations

# Run the proofs in their long form, TIMES as long as usual.
[group('test')]
proofs TIMES="1":
    proofs/run.sh {{ TIMES }}

# Fuzz one target for SECONDS; needs a nightly toolchain and cargo-fuzz.
[group('test')]
fuzz TARGET SECONDS="60":
    fuzz/run.sh {{ SECONDS }} {{ TARGET }}

# Run what must pass before a change is merged.
[group('check')]
ci *ARGS:
    .ci/run {{ ARGS }}

# Format the code, the fuzz targets too.
[group('check')]
fmt:
    cargo fmt
    cargo fmt --manifest-path fuzz/Cargo.toml

# Deny all warnings.
[group('check')]
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Build the documentation of all items, with warnings denied.
[group('check')]
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# Compare ftx with other programs, on a twentieth of the data unless ARGS say otherwise.
[group('measure')]
bench *ARGS="--scale 0.05 --rounds 2":
    bench/compare.py {{ ARGS }}
