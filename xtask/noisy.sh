#!/usr/bin/env bash
# Runs a command beside others that want the processors and the disk, in bursts: a test that fails here and not
# alone waits for the clock or for luck. Ends with the command, with its exit code.
#
#   bash xtask/noisy.sh cargo test --workspace --no-fail-fast
#
# Not -e: what the noise meets is no end of it, and the command's exit code is to be told.
set -uo pipefail
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

# Also when it is interrupted.
end() {
  kill "$noisy" 2> /dev/null
  wait "$noisy"
  rm -f "$file"
}

noise &
noisy=$!
trap end EXIT
"$@"
code=$?
if ! kill -0 "$noisy" 2> /dev/null; then
  echo "the noise ended before the command: nothing was tried" >&2
  code=1
fi
exit "$code"
