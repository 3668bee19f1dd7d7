#!/usr/bin/env bash
# Runs a command beside others that want the processors and the disk, in bursts: a test that fails here and not
# alone waits for the clock or for luck. Ends with the command, with its exit code.
#
#   bash xtask/noisy.sh cargo test --workspace --no-fail-fast
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: noisy.sh COMMAND..." >&2; exit 2; }
burst=$((2 * $(nproc)))
file=$(mktemp)

noise() {
  trap 'kill $(jobs -p) 2> /dev/null; exit' TERM
  while :; do
    for _ in $(seq "$burst"); do
      timeout $((RANDOM % 4 + 1)) sh -c 'while :; do :; done' &
    done
    dd if=/dev/zero of="$file" bs=1M count=200 conv=fsync 2> /dev/null &
    wait
    sleep "0.$((RANDOM % 10))"
  done
}

noise &
noisy=$!
trap 'kill "$noisy"; wait "$noisy" || true; rm -f "$file"' EXIT
"$@"
