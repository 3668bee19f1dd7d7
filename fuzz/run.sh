#!/bin/sh
# Lets libFuzzer loose on one target for a while.
#
#   fuzz/run.sh TARGET [SECONDS] [more options of libFuzzer]     (default 60 s)
#
# The first build takes about five minutes. What it learns is kept in fuzz/corpus/TARGET, what makes the
# target fail in fuzz/artifacts/TARGET, and tried again with: fuzz/run.sh TARGET 0 FILE
set -eu
cd "$(dirname "$0")"
target=${1:-}
if [ ! -e "fuzz_targets/$target.rs" ]; then
    echo "fuzz: give a target: $(cd fuzz_targets && echo *.rs | sed 's/\.rs//g')" >&2
    exit 2
fi
seconds=${2:-60}
[ $# -gt 2 ] && shift 2 || shift $#
out=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
# Names of crates as rustc knows them.
FUZZ_CRATES="offloop_ingest offloop_vault offloop_job offloop_wire offloop_schedule $target"
export FUZZ_CRATES
RUSTC_WRAPPER=$PWD/rustc.sh CARGO_TARGET_DIR=$out CARGO_INCREMENTAL=0 \
    cargo build --quiet --release --bin "$target"
mkdir -p "corpus/$target" "artifacts/$target"
if [ "$seconds" = 0 ]; then
    exec "$out/release/$target" "$@"
fi
seeds=
[ -d "seeds/$target" ] && seeds=seeds/$target
# $seeds is one folder or none.
exec "$out/release/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 \
    -artifact_prefix="artifacts/$target/" "$@" "corpus/$target" $seeds
