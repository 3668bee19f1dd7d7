#!/bin/sh
# Fetches the real photo sets into a cache folder: corpus.sh CACHE_DIR
#
# Layout: CACHE/good       large real photos and renders (every one must convert)
#         CACHE/exif       camera files rich in EXIF (compared with exiftool)
#         CACHE/malformed  proofs of concept, fuzz cases, truncated files (every one must end, none may hurt)
#
# Packages are asked for by name from whatever package sources this machine is set up with.
# Idempotent: a set that is complete has a stamp and is skipped. Nothing is installed, and
# nothing is written outside CACHE_DIR.
set -eu

[ $# -eq 1 ] || { echo "usage: $0 CACHE_DIR" >&2; exit 2; }
mkdir -p "$1"
cache=$(cd "$1" && pwd)
stamps="$cache/.stamps"
tmp="$cache/.tmp"
mkdir -p "$cache/good" "$cache/exif" "$cache/malformed" "$stamps"
rm -rf "$tmp"
mkdir -p "$tmp"
trap 'rm -rf "$tmp"' EXIT
failed=0

done_before() { [ -e "$stamps/$1" ]; }
finish() { date -u +%FT%TZ >"$stamps/$1"; echo "corpus: $1 ready"; }
skip() { echo "corpus: $1 not available here: $2" >&2; failed=1; }

# Copies the image files below $1 into $2, keeping their relative paths.
images_into() {
    mkdir -p "$2"
    (cd "$1" && find . -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.jpe' -o -iname '*.png' \
        -o -iname '*.apng' -o -iname '*.webp' -o -iname '*.gif' -o -iname '*.tif' -o -iname '*.tiff' -o -iname '*.bmp' \
        -o -iname '*.heic' -o -iname '*.avif' -o -iname '*.cr2' -o -iname '*.cr3' -o -iname '*.nef' \
        -o -iname '*.raf' -o -iname '*.arw' -o -iname '*.dng' -o -iname '*.orf' -o -iname '*.rw2' \
        -o -iname '*.pef' -o -iname '*.exv' -o -iname '*.mrw' -o -iname '*.srw' -o -iname '*.crw' -o -iname '*.psd' \
        -o -iname '*.jp2' -o -iname '*poc*' -o -iname '*crash*' -o -iname '*timeout*' \
        -o -iname '*oom*' \) ! -name '*.py' ! -name '*.cpp' ! -name '*.txt' -print0 |
        tar --null -T - -cf -) | (cd "$2" && tar xf -)
}

# 1. Debian binary packages: unpacked, never installed.
for pkg in mate-backgrounds plasma-workspace-wallpapers gnome-backgrounds; do
    done_before "$pkg" && continue
    mkdir -p "$tmp/$pkg/x"
    if (cd "$tmp/$pkg" && apt-get -q -o APT::Sandbox::User=root download "$pkg" >log 2>&1 && dpkg -x ./*.deb x); then
        images_into "$tmp/$pkg/x" "$cache/good/$pkg"
        finish "$pkg"
    else
        skip "$pkg" "$(tail -n 1 "$tmp/$pkg/log")"
    fi
done

# 2. Debian source packages: a private apt state with the system's own sources, asked for deb-src.
apt_private() {
    [ -e "$tmp/apt/ready" ] && return 0
    mkdir -p "$tmp/apt/parts" "$tmp/apt/lists/partial" "$tmp/apt/cache/archives/partial"
    : >"$tmp/apt/sources.list"
    for f in /etc/apt/sources.list.d/*.sources; do
        [ -e "$f" ] && grep -q debian-archive "$f" || continue
        sed 's/^Types:.*/Types: deb-src/' "$f" >"$tmp/apt/parts/$(basename "$f")"
    done
    if [ -e /etc/apt/sources.list ]; then
        sed -n 's/^deb \(.*debian.*\)/deb-src \1/p' /etc/apt/sources.list >"$tmp/apt/sources.list"
    fi
    apt_src update >"$tmp/apt/log" 2>&1 || return 1
    : >"$tmp/apt/ready"
}
apt_src() {
    apt-get -q -o Dir::Etc::SourceList="$tmp/apt/sources.list" -o Dir::Etc::SourceParts="$tmp/apt/parts" \
        -o Dir::State::Lists="$tmp/apt/lists" -o Dir::Cache="$tmp/apt/cache" -o APT::Sandbox::User=root "$@"
}
for pkg in exiv2 libexif; do
    done_before "$pkg" && continue
    mkdir -p "$tmp/$pkg/x"
    if apt_private && (cd "$tmp/$pkg" && apt_src source --download-only "$pkg" >log 2>&1) &&
        (cd "$tmp/$pkg" && for t in ./*.orig*.tar.*; do case $t in *.asc) ;; *) tar xf "$t" -C x ;; esac; done); then
        case $pkg in exiv2) to=malformed ;; *) to=exif ;; esac
        images_into "$tmp/$pkg/x" "$cache/$to/$pkg"
        finish "$pkg"
    else
        skip "$pkg" "$(cat "$tmp/$pkg/log" "$tmp/apt/log" 2>/dev/null | tail -n 1)"
    fi
done

# 3. PyPI source distribution: only unpacked, never built. pip asks the package for its metadata
#    after the download; build isolation is off so that it fetches nothing else.
if ! done_before pillow; then
    mkdir -p "$tmp/pillow/x"
    (cd "$tmp/pillow" && pip download --quiet --no-deps --no-binary :all: pillow >log 2>&1) || true
    archive=$(find "$tmp/pillow" -maxdepth 1 -name '*.tar.gz' | head -n 1)
    if [ -n "$archive" ]; then
        tar xzf "$archive" -C "$tmp/pillow/x"
        images_into "$tmp/pillow/x" "$cache/malformed/pillow"
        finish pillow
    else
        skip pillow "$(tail -n 1 "$tmp/pillow/log")"
    fi
fi

# 4. npm package: packed, never installed, so no script of it runs.
if ! done_before node-exif; then
    mkdir -p "$tmp/node-exif/x"
    if (cd "$tmp/node-exif" && npm pack --silent node-exif >log 2>&1 && tar xzf ./*.tgz -C x); then
        images_into "$tmp/node-exif/x" "$cache/exif/node-exif"
        finish node-exif
    else
        skip node-exif "$(tail -n 1 "$tmp/node-exif/log")"
    fi
fi

for set in good exif malformed; do
    printf 'corpus: %-9s %6d files\n' "$set" "$(find "$cache/$set" -type f | wc -l)"
done
exit "$failed"
