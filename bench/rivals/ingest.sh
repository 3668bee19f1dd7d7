#!/bin/sh
# Loads into PostgreSQL: this pack beside `psql \copy` and npm's csv-parse with batched inserts, on one
# file, in one run with rounds in turn. About two minutes.
#
#   bench/rivals/ingest.sh POSTGRES_URL [CACHE_DIR] [ROUNDS]
#
# Needs psql, node and npm. The file (IPv4 ranges with their networks, 4 times: 1.6 million rows) is made
# in CACHE_DIR (default .cache/csv) once.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
url=${1:?the address of a PostgreSQL server}
cache=${2:-$root/.cache/csv}
mkdir -p "$cache"
file=$cache/asn-4.csv
if [ ! -e "$file" ]; then
    work=$(mktemp -d)
    (cd "$work" && npm pack --silent @ip-location-db/asn && tar xzf ./*.tgz)
    for _ in 1 2 3 4; do cat "$work/package/asn-ipv4.csv"; done > "$file.new"
    mv "$file.new" "$file"
    rm -r "$work"
fi
if [ ! -d "$here/node_modules/pg" ] || [ ! -d "$here/node_modules/csv-parse" ]; then
    (cd "$here" && npm install --no-save --no-audit --no-fund --ignore-scripts)
fi
cd "$root"
cargo build --quiet --release -p offloop-ingest --example bench_load
exec "${CARGO_TARGET_DIR:-$root/target}/release/examples/bench_load" speed "$url" "$file" "${3:-5}" "$here/ingest.mjs"
