#!/usr/bin/env bash
# What happens at three times capacity: calls of processor time, offered at a steady rate by a public
# load tool (oha: cargo install oha).
#
#   bash bench/overload.sh [--seconds N] [--cpu-ms N] [--program FILE]
#
# Prints machine and versions, then a row per load: goodput (answered in time) against the capacity that
# was measured first, refusals and how fast they came, the delay of the doors' loop, and how long
# /healthz took meanwhile. Load tool and server share the processors; capacity was measured the same way.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=15 cpu_ms=10 program="${CARGO_TARGET_DIR:-target}/release/offloop"
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds="$2"; shift ;;
    --cpu-ms) cpu_ms="$2"; shift ;;
    --program) program="$2"; shift ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
for tool in oha curl python3; do
  command -v $tool > /dev/null || { echo "overload: $tool is not installed (oha: cargo install oha)" >&2; exit 1; }
done
[ -x "$program" ] || { echo "overload: $program is not there; cargo build --release -p offloop-cli" >&2; exit 1; }

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT
at=127.0.0.1:17990
"$program" serve --data "$work/data" --listen $at > "$work/server.log" 2>&1 &
server=$!
for _ in $(seq 100); do curl -sf http://$at/readyz > /dev/null && break; sleep 0.1; done

patience=500
echo "{\"payload\":{\"cpu_ms\":$cpu_ms},\"timeout_ms\":$patience}" > "$work/body"
call() { # OUT SECONDS CONNECTIONS [OPTION...]: one line per request
  local out="$1" span="$2" connections="$3"
  shift 3
  oha -z "${span}s" -w -c "$connections" -t 20s "$@" -m POST -T application/json -D "$work/body" --no-tui \
    --output-format csv http://$at/v1/call/offloop.spin > "$out"
}

cat > "$work/table.py" << 'PY'
import csv, json, sys, urllib.request
def rows(path):
    with open(path) as file:
        return [(float(r["request-duration"]), int(r["status"])) for r in csv.DictReader(file)]
def at(times, part):
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * part))] * 1e3 if times else float("nan")
kind, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
all = rows(path)
good = [t for t, status in all if status == 200]
if kind == "capacity":
    print(f"{len(good) / seconds:.1f}")
    sys.exit()
load, capacity, health = float(sys.argv[4]), float(sys.argv[5]), rows(sys.argv[6])
refused = [t for t, status in all if status == 503]
other = len(all) - len(good) - len(refused)
pulse = json.load(open(sys.argv[7]))
doors = max((one["delay"]["p99_ms"] or 0) for one in pulse["loops"] if one["name"].startswith("door"))
print(f"| {load:g} | {len(all) / seconds:.0f} | {len(good) / seconds:.0f} ({100 * len(good) / seconds / capacity:.0f} %) "
      f"| {at(good, .5):.0f} / {at(good, .99):.0f} | {len(refused) / seconds:.0f} | {at(refused, .5):.1f} / {at(refused, .99):.1f} "
      f"| {other} | {doors:.2f} | {at([t for t, _ in health], .5):.1f} / {at([t for t, _ in health], .99):.1f} |")
PY

echo "machine: $(nproc) processors, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), Linux $(uname -r | cut -d- -f1)"
echo "offloop: $("$program" --version), calls of $cpu_ms ms of processor time, patience $patience ms; $(oha --version), $seconds s per row"
call "$work/warm.csv" 3 4
call "$work/capacity.csv" "$seconds" 6
capacity=$(python3 "$work/table.py" capacity "$work/capacity.csv" "$seconds")
echo "capacity: $capacity calls a second (6 callers, each with one call under way)"
echo
echo "| load | offered /s | goodput /s | its p50 / p99 ms | refused /s | p50 / p99 ms | other | doors' loop p99 ms | /healthz p50 / p99 ms |"
echo "|---|---|---|---|---|---|---|---|---|"
for load in 0.5 1 1.6 3; do
  rate=$(python3 -c "print(round($load * $capacity))")
  oha -z "${seconds}s" -c 1 -q 100 --latency-correction --no-tui --output-format csv http://$at/healthz > "$work/health.csv" &
  health=$!
  call "$work/load.csv" "$seconds" 600 -q "$rate" --latency-correction
  curl -sf http://$at/v1/pulse > "$work/pulse.json"
  wait $health
  python3 "$work/table.py" row "$work/load.csv" "$seconds" "$load" "$capacity" "$work/health.csv" "$work/pulse.json"
  sleep 2
done
