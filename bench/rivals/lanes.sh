#!/bin/sh
# The lanes in one comparable run, under four minutes: the CPU lane beside crossbeam, rayon and
# tokio (an example of its crate), then the process lane beside npm's pools, rounds in turn.
# Arguments go to `offloop-bench lanes`.
#
#   bench/rivals/lanes.sh --only process --rounds 3
#
# Needs node and npm. BIN names the folder of built programs, with the examples below it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
if [ -z "${BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --release -p offloop-bench &&
        cargo build --quiet --release -p offloop-lane-cpu --example throughput)
fi
if [ ! -d "$here/node_modules/piscina" ]; then
    (cd "$here" && npm install --no-save --no-audit --no-fund --ignore-scripts)
fi
"$bin/examples/throughput"
exec "$bin/offloop-bench" lanes --rival-folder "$here" "$@"
