#!/bin/sh
# Calls that sleep: offloop-fetch beside npm's undici with p-limit, rounds in turn, each client in a
# process of its own and the server in another. Arguments go to the example of the pack's crate:
#
#   bench/rivals/fetch.sh --calls 200 --ms 3000 --limit 50
#   bench/rivals/fetch.sh --calls 20000 --ms 200 --limit 1000 --rounds 5
#
# Needs node and npm. BIN names the folder of built programs, with the examples below it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
if [ -z "${BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --release -p offloop-fetch --example bench)
fi
if [ ! -d "$here/node_modules/undici" ] || [ ! -d "$here/node_modules/p-limit" ]; then
    (cd "$here" && npm install --no-save --no-audit --no-fund --ignore-scripts)
fi
exec "$bin/examples/bench" --node "$here/fetch.mjs" "$@"
