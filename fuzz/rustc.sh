#!/bin/sh
# Stands before rustc in a build of fuzz targets: our own crates count what they pass through, with
# libFuzzer's counters; all others stay as they are, which makes the build minutes shorter.
rustc=$1
shift
name= before=
for word in "$@"; do
    [ "$before" = --crate-name ] && name=$word
    before=$word
done
case " $FUZZ_CRATES " in
*" $name "*)
    exec "$rustc" "$@" --cfg fuzzing -C debug-assertions -C overflow-checks -C passes=sancov-module \
        -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
        -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$rustc" "$@" ;;
esac
