#!/bin/sh
# The lanes in one comparable run: thread pools of Rust and process pools of npm, rounds in turn.
# Arguments go to `offloop-bench lanes`.
#
#   bench/rivals/lanes.sh --only process --rounds 3
#
# Needs node and npm. BIN names the folder of offloop-bench.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
if [ -z "${BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --release -p offloop-bench)
fi
if [ ! -d "$here/node_modules/piscina" ]; then
    (cd "$here" && npm ci --no-audit --no-fund)
fi
exec "$bin/offloop-bench" lanes --rival-folder "$here" "$@"
