#!/bin/sh
# Photos against their peers, interleaved in one run; prints medians, versions and ratios.
#
#   bench/photos/peers.sh CACHE_DIR [ROUNDS]
#
# CACHE_DIR is what xtask/corpus.sh filled. Needs node + npm, ImageMagick's `convert` and exiftool
# (Debian: imagemagick, libimage-exiftool-perl); npm fetches sharp into CACHE_DIR/.bench once.
# Sets: baseline = the sequential JPEGs of at least 400 KB in CACHE_DIR/good, progressive = the
# progressive ones, heads = the camera files of CACHE_DIR/exif hard-linked 200 times.
# Everyone makes a 500 px q80 JPEG from memory-warm files; offloop also makes the 160 px one.
set -eu
[ $# -ge 1 ] || { echo "usage: $0 CACHE_DIR [ROUNDS]" >&2; exit 2; }
cache=$(cd "$1" && pwd)
rounds=${2:-5}
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
work="$cache/.bench"
mkdir -p "$work"
bench="$target/release/examples/bench_photos"
(cd "$here/../.." && cargo build --release -q -p offloop-photos --example bench_photos)

if [ ! -d "$work/baseline" ]; then
    mkdir -p "$work/baseline" "$work/progressive" "$work/heads"
    find "$cache/good" -iname '*.jp*g' -size +400k | while read -r file; do
        case $(identify -format '%[interlace]' "$file" 2>/dev/null) in
            JPEG | Line | Plane) kind=progressive ;;
            *) kind=baseline ;;
        esac
        name=$(echo "${file#"$cache/good/"}" | tr '/' '_')
        ln "$file" "$work/$kind/$name"
    done
    i=0
    while [ $i -lt 200 ]; do
        for file in "$cache"/exif/node-exif/package/test/*.jpg; do
            ln "$file" "$work/heads/$i-$(basename "$file")"
        done
        i=$((i + 1))
    done
fi
[ -d "$work/node_modules/sharp" ] || (cd "$work" && npm init -y >/dev/null && npm install --silent sharp >/dev/null)

rate() { sed -n 's/.*: \([0-9.]*\) files\/s$/\1/p' "$1" | sort -n | awk '{a[NR]=$1} END {print a[int((NR+1)/2)]}'; }
magick_round() {
    count=$(find "$1" -type f | wc -l)
    start=$(date +%s.%N)
    find "$1" -type f -print0 | MAGICK_THREAD_LIMIT=1 xargs -0 -P2 -I{} \
        convert -define jpeg:size=1000x1000 {} -auto-orient -thumbnail 500x500 -quality 80 jpg:/dev/null
    end=$(date +%s.%N)
    echo "imagemagick: $(echo "$count $start $end" | awk '{printf "%.1f", $1 / ($3 - $2)}') files/s"
}
exiftool_round() {
    count=$(find "$1" -type f | wc -l)
    start=$(date +%s.%N)
    exiftool -fast2 -csv -Orientation -DateTimeOriginal -OffsetTimeOriginal -Make -Model -GPSLatitude \
        -GPSLongitude -ImageWidth -ImageHeight "$1" >/dev/null 2>&1 || true
    end=$(date +%s.%N)
    echo "exiftool: $(echo "$count $start $end" | awk '{printf "%.1f", $1 / ($3 - $2)}') files/s"
}

for set in baseline progressive; do
    for who in ours sharp magick; do : >"$work/$set.$who"; done
    i=0
    while [ $i -lt "$rounds" ]; do
        "$bench" convert "$work/$set" 2 1 | tail -n 1 >>"$work/$set.ours"
        (cd "$work" && node "$here/sharp.mjs" "$work/$set" 2 1) >>"$work/$set.sharp"
        magick_round "$work/$set" >>"$work/$set.magick"
        i=$((i + 1))
    done
    ours=$(rate "$work/$set.ours") sharp=$(rate "$work/$set.sharp") magick=$(rate "$work/$set.magick")
    echo "== $set: $(find "$work/$set" -type f | wc -l) files, 2 threads, median of $rounds"
    tail -n 1 "$work/$set.sharp" | sed 's/:.*//'
    echo "$ours $sharp $magick" | awk '{printf "offloop %.1f  sharp %.1f  imagemagick %.1f files/s; %.2fx sharp, %.1fx imagemagick\n", $1, $2, $3, $1/$2, $1/$3}'
done
for who in ours exiftool; do : >"$work/heads.$who"; done
i=0
while [ $i -lt "$rounds" ]; do
    "$bench" probe "$work/heads" 1 1 | tail -n 1 >>"$work/heads.ours"
    exiftool_round "$work/heads" >>"$work/heads.exiftool"
    i=$((i + 1))
done
ours=$(rate "$work/heads.ours") theirs=$(rate "$work/heads.exiftool")
echo "== heads: $(find "$work/heads" -type f | wc -l) files, 1 thread, median of $rounds, exiftool $(exiftool -ver)"
echo "$ours $theirs" | awk '{printf "offloop %.0f  exiftool -fast2 %.0f files/s; %.0fx\n", $1, $2, $1/$2}'
convert -version | head -n 1
