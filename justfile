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

# The same while others want the processors and the disk: what fails only here waits for the clock, or for luck.
test-noisy *args:
    bash xtask/noisy.sh cargo test --workspace --no-fail-fast {{args}}

# PostgreSQL and Kafka on loopback for the tests that need them: `eval "$(just servers start /tmp/servers)"`,
# later `just servers stop /tmp/servers`.
@servers verb folder:
    bash xtask/servers.sh {{verb}} {{folder}}

# libFuzzer on one target for so many seconds: `just fuzz ingest_form 600`. Needs clang's or gcc's C++.
fuzz target seconds="60" *args:
    fuzz/run.sh {{target}} {{seconds}} {{args}}

# Real photo sets into a cache folder, by package name.
corpus cache=".cache/corpus":
    bash xtask/corpus.sh {{cache}}

# Against BullMQ on Redis with appendfsync always, in one run.
bench:
    bash bench/rivals/run.sh

# The lanes alone, against thread pools and npm's process pools, in one run; under four minutes.
bench-lanes *args:
    bash bench/rivals/lanes.sh {{args}}

# The vault beside Node's crypto, @node-rs/argon2 and @node-rs/bcrypt over HTTP, in one run.
bench-vault *args:
    bash bench/rivals/vault.sh {{args}}

# Delimited text: the parser beside npm's csv-parse, in one run.
bench-csv *args:
    sh bench/rivals/csv.sh {{args}}

# Loads into PostgreSQL beside `psql \copy` and npm's csv-parse, in one run: `just bench-ingest URL`.
bench-ingest *args:
    sh bench/rivals/ingest.sh {{args}}

# Calls that sleep beside npm's undici with p-limit, in one run.
bench-fetch *args:
    sh bench/rivals/fetch.sh {{args}}

# Two minutes of tasks that loop, eat, fork, exit and print without end, in Node and Python, beside
# 1,000 good jobs at a time. Prints its seed; `just chaos-lanes --seed N` makes its decisions again.
chaos-lanes *args:
    cargo build --quiet --profile quick -p offloop-cli -p offloop-bench
    "${CARGO_TARGET_DIR:-target}/quick/offloop-bench" campaign lanes --program "${CARGO_TARGET_DIR:-target}/quick/offloop" {{args}}

# Crashes, full disks and hostile clients, with the common oracle.
campaigns:
    bash bench/campaigns.sh
