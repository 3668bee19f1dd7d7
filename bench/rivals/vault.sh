#!/bin/sh
# The vault beside Node, end to end over HTTP, on the same cores, in one run with rounds in turn.
# Under two minutes. Arguments go to the load generator, an example of the pack's crate:
#
#   bench/rivals/vault.sh --only sign,seal --rounds 3
#
# Node runs its crypto in a Piscina pool, one thread per core, behind its plain http server; argon2
# and bcrypt by @node-rs. Needs node and npm. BIN names the folder of built programs, with the
# examples below it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
if [ -z "${BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --release -p offloop-cli &&
        cargo build --quiet --release -p offloop-vault --example rivals)
fi
if [ ! -d "$here/node_modules/piscina" ] || [ ! -d "$here/node_modules/@node-rs/bcrypt" ]; then
    (cd "$here" && npm install --no-save --no-audit --no-fund --ignore-scripts)
fi
exec "$bin/examples/rivals" --program "$bin/offloop" --node "$here/vault.mjs" "$@"
