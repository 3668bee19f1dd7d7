#!/bin/sh
# One comparable run: a Redis of its own with every write flushed, BullMQ on it, offloop beside it,
# rounds in turn. Arguments go to `offloop-bench http`.
#
#   bench/rivals/run.sh --only life --rounds 3
#
# Needs redis-server, node and npm. BIN names the folder of the two programs, FOLDER one on a real
# disk for the data of both sides.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
if [ ! -x "$bin/offloop" ] || [ ! -x "$bin/offloop-bench" ]; then
    (cd "$root" && cargo build --release -p offloop-cli -p offloop-bench)
fi
if [ ! -d "$here/node_modules/bullmq" ]; then
    (cd "$here" && npm install --no-save --no-audit --no-fund --ignore-scripts)
fi

folder=${FOLDER:-$root/target/bench}
mkdir -p "$folder"
work=$(mktemp -d "$folder/redis-XXXXXX")
port=$(node -e 'const s=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})')
redis-server --bind 127.0.0.1 --port "$port" --dir "$work" --daemonize no --save '' \
    --appendonly yes --appendfsync always --auto-aof-rewrite-percentage 0 \
    --logfile "$work/redis.log" &
redis=$!
# The shell's own child: ended by its number, waited for, and its folder with it.
trap 'kill "$redis" 2>/dev/null; wait "$redis" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
tries=0
until redis-cli -p "$port" ping >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "redis-server did not start; see $work/redis.log" >&2; exit 1; }
    sleep 0.1
done

"$bin/offloop-bench" http --program "$bin/offloop" --folder "$folder" \
    --rival-folder "$here" --redis-port "$port" "$@"
