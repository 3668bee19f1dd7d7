#!/usr/bin/env bash
# Reliability campaigns against the whole program, each with its negative control where it has one.
#
#   bash bench/campaigns.sh              about twenty-five minutes
#   bash bench/campaigns.sh --quick      about three minutes, for CI
#
#   --seed N        the same decisions again
#   --programs DIR  use offloop, offloop-sabotaged, offloop-sabotaged-lanes and offloop-bench of DIR; builds nothing
#   --out DIR       where outputs and failed runs are kept (default target/campaigns)
#
# Needs Node, Python and /bin/sh; r4 needs strace, r5 needs root, r8 libfaketime, uploads and l4 sqlite3; l5 takes broken photos from $CORPUS, by
# default .cache/corpus (`just corpus`). What is missing is skipped by its name.
# Exit code 1 if a campaign is red or a build that is broken on purpose stays green.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=no seed= programs= out=
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=yes ;;
    --seed) seed="$2"; shift ;;
    --programs) programs="$2"; shift ;;
    --out) out="$2"; shift ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done

if ! command -v node >/dev/null; then
  echo "campaigns: node is not installed; process tasks cannot be tried" >&2
  exit 1
fi

target="${CARGO_TARGET_DIR:-target}"
out="${out:-$target/campaigns}"
mkdir -p "$out"
if [ -z "$programs" ]; then
  programs="$out"
  # The broken one first, so that the sound one is what stays in the target folder.
  cargo build --quiet --profile quick -p offloop-cli --features sabotage
  install "$target/quick/offloop" "$programs/offloop-sabotaged"
  cargo build --quiet --profile quick -p offloop-cli --features sabotage-lanes
  install "$target/quick/offloop" "$programs/offloop-sabotaged-lanes"
  cargo build --quiet --profile quick -p offloop-cli
  install "$target/quick/offloop" "$programs/offloop"
  cargo build --quiet --profile quick -p offloop-bench
  install "$target/quick/offloop-bench" "$programs/offloop-bench"
fi

red=0
lines="$out/lines.json"
: >"$lines"

# run LIMIT_S CAMPAIGN PROGRAM [OPTION...]
run() {
  local limit="$1" campaign="$2" program="$3" log
  shift 3
  log="$out/$campaign-$program${SABOTAGED_PART:+-$SABOTAGED_PART}.log"
  if RUST_BACKTRACE=0 timeout "$limit" "$programs/offloop-bench" campaign "$campaign" \
    --program "$programs/$program" --data "$out" ${seed:+--seed "$seed"} "$@" >"$log" 2>&1; then
    ended=as-expected
  else
    ended=NOT-AS-EXPECTED
    red=1
    tail -n 5 "$log" >&2
  fi
  printf '%s %s %s\n' "$program${SABOTAGED_PART:+:$SABOTAGED_PART}" "$ended" "$(grep '^{.*"campaign":' "$log" || echo null)" >>"$lines"
  echo "$campaign $program${SABOTAGED_PART:+ ($SABOTAGED_PART)}: $ended"
}

# broken PART LIMIT_S CAMPAIGN [OPTION...]: the lanes without one of their guards; it must turn red.
broken() {
  local part="$1" limit="$2" campaign="$3"
  shift 3
  SABOTAGED_PART="$part" run "$limit" "$campaign" offloop-sabotaged-lanes "$@" --expect-red
}

# tricked LIMIT_S CAMPAIGN [OPTION...]: the sound program, asked for what must turn red.
tricked() {
  local limit="$1" campaign="$2"
  shift 2
  SABOTAGED_PART=asked run "$limit" "$campaign" offloop "$@" --broken --expect-red
}

if [ "$quick" = yes ]; then
  run 60 r1 offloop --cycles 10
  run 60 r4 offloop --cycles 6
  run 60 r5 offloop --cycles 1 --hold-s 3
  run 60 drain offloop --cycles 1
  run 60 stubborn offloop --cycles 3
  run 60 l3 offloop --cycles 40
  run 60 lanes offloop --for-s 20
  run 60 r2 offloop --cycles 8
  run 60 r7 offloop --cycles 5
  run 60 l7 offloop --cycles 1
  run 60 groups offloop --cycles 10
  run 60 r7-remote offloop --cycles 16
  run 60 uploads offloop --cycles 50 --megabytes 2
  run 60 l4 offloop --cycles 200 --megabytes 50
  run 60 r1 offloop-sabotaged --cycles 3 --expect-red
else
  run 300 r1 offloop
  run 300 r4 offloop
  run 200 r5 offloop
  run 150 l2 offloop
  run 300 l3 offloop
  run 250 l5 offloop --corpus "${CORPUS:-.cache/corpus}/malformed"
  run 120 drain offloop
  run 120 stubborn offloop
  run 200 lanes offloop
  run 300 r2 offloop
  run 300 r6 offloop
  run 400 r7 offloop
  run 120 l7 offloop
  run 200 groups offloop
  run 200 r7-remote offloop
  run 250 r8 offloop
  run 250 l6 offloop
  run 250 uploads offloop --megabytes 10
  run 500 l4 offloop
  run 100 r1 offloop-sabotaged --cycles 10 --expect-red
  run 100 r4 offloop-sabotaged --cycles 6 --expect-red
  run 100 r5 offloop-sabotaged --cycles 1 --expect-red
  broken memory 100 lanes --for-s 20
  broken hunt 100 lanes --for-s 20
  broken leftovers 100 r2 --cycles 8
  broken deaths 100 r6 --cycles 1
  broken kill 150 r7 --cycles 4
  broken log 100 l7 --cycles 1
  broken fence 100 r7-remote --cycles 16
  SABOTAGED_PART=decision run 100 groups offloop-sabotaged --cycles 10 --expect-red
  tricked 150 r8 --cycles 1
  tricked 150 l6 --cycles 1
fi

node -e '
const rows = require("fs").readFileSync(process.argv[1], "utf8").trim().split("\n").map((line) => {
  const [program, ended, ...json] = line.split(" ");
  return { program, ended, run: JSON.parse(json.join(" ")) };
});
const heads = ["lost", "ghost", "dup_accept", "stale_accept", "live_rerun", "unknown_dup", "survivors"];
const table = [["campaign", "program", ...heads, "breaches", "recovery p50/p99/max ms", "s", "ended"]];
for (const { program, ended, run } of rows) {
  if (!run) { table.push(["?", program, ...heads.map(() => "?"), "?", "?", "?", ended]); continue; }
  const r = run.recovery_ms;
  const skipped = run.skipped.length ? " (part skipped)" : "";
  table.push([run.campaign, program, ...heads.map((head) => run[head]), run.breaches.length,
    r ? `${r.p50} / ${r.p99} / ${r.max}` : "-", run.took_s, ended + skipped]);
}
const widths = table[0].map((_, at) => Math.max(...table.map((row) => String(row[at]).length)));
for (const row of table) console.log(row.map((cell, at) => String(cell).padEnd(widths[at])).join("  "));
for (const { run } of rows) for (const what of run?.skipped ?? []) console.log(`skipped in ${run.campaign}: ${what}`);
' "$lines"
exit "$red"
