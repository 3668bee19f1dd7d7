#!/bin/sh
# The parse stage of the ingest pack beside npm's csv-parse, the `csv` crate and the limits of the
# machine, on real tables, in one run with rounds in turn. Under two minutes.
#
#   bench/rivals/csv.sh [CACHE_DIR] [--rounds N]
#
# Needs node and npm. The tables are fetched into CACHE_DIR (default .cache/csv) once.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/.cache/csv
case ${1:-} in ''|--*) ;; *) cache=$1; shift ;; esac
bash "$here/csv-corpus.sh" "$cache"
if [ ! -d "$here/node_modules/csv-parse" ]; then
    (cd "$here" && npm install --no-save --no-audit --no-fund --ignore-scripts)
fi
cd "$root"
cargo build --quiet --release -p offloop-ingest --example bench_parse
exec "${CARGO_TARGET_DIR:-$root/target}/release/examples/bench_parse" \
    --corpus "$cache/speed" --node "$here/csv.mjs" "$@"
