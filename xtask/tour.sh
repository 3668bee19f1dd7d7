#!/usr/bin/env bash
# Runs the README's tour as written: xtask/tour.sh PROGRAM
#
# Blocks after <!-- tour-setup --> run first; then the server starts in that folder; then the blocks
# after <!-- tour --> run in their order. Ends with the server's own exit code after SIGTERM.
set -euo pipefail
program=$(realpath "$1")
readme=$(realpath "$(dirname "$0")/../README.md")
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
mkdir bin
ln -s "$program" bin/offloop
export PATH="$work/bin:$PATH"

blocks() { # MARKER: each block to a file of its own
  awk -v marker="<!-- $1 -->" -v name="$1" '
    $0 == marker { wanted = 1; next }
    wanted && /^```sh$/ { inside = 1; wanted = 0; file = sprintf("%s-%02d.sh", name, ++count); next }
    inside && /^```$/ { inside = 0; next }
    inside { print > file }' "$readme"
}
blocks tour-setup
blocks tour
[ -e tour-setup-01.sh ] && [ -e tour-05.sh ] || { echo "the README has no tour"; exit 1; }

for block in tour-setup-*.sh; do echo "--- $block"; bash -euo pipefail "$block"; done
offloop serve > server.out 2> server.err &
server=$!
for _ in $(seq 100); do curl -sf http://127.0.0.1:7878/readyz > /dev/null && break; sleep 0.1; done
for block in tour-[0-9]*.sh; do
  echo "--- $block"
  bash -euo pipefail "$block" > "$block.out" || { cat "$block.out" server.err; exit 1; }
  cat "$block.out"; echo
done

expect() { grep -q "$2" "$1" || { echo "$1 lacks: $2"; cat "$1"; exit 1; }; }
expect tour-01.sh.out '"state":"ready"'
expect tour-02.sh.out '"state":"completed"'
expect tour-03.sh.out 'unknown-task'
expect tour-04.sh.out '"state":"cancelled"'
expect tour-05.sh.out '1000000'
expect tour-05.sh.out 'LOUD'
expect tour-07.sh.out '"lane":"cpu:calls"'
expect tour-07.sh.out 'argon2id'
expect tour-07.sh.out 'doors'
expect tour-08.sh.out 'key:\*'
expect tour-08.sh.out 'limit.set'
expect tour-09.sh.out 'fired'
expect tour-10.sh.out 'completed'
expect tour-11.sh.out '40 ok, 0 failed'
expect tour-12.sh.out '"stored":2'
expect tour-12.sh.out 'three'
curl -sf http://127.0.0.1:7878/ | grep -q '<title>' || { echo "no dashboard"; exit 1; }

kill "$server"
code=0
wait "$server" || code=$?
server=
[ "$code" = 0 ] || { echo "the server ended with $code"; cat server.err; exit 1; }
echo "the tour works as written"
