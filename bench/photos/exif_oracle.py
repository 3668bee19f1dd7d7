#!/usr/bin/env python3
"""Compares what the engine reads from photos with exiftool, field by field.

exif_oracle.py PROBE_JSON_BINARY DIR

Prints each difference and a count per field. exiftool merges EXIF with XMP, IPTC and maker notes;
it is asked for the EXIF groups alone.
"""
import collections
import json
import subprocess
import sys

binary, folder = sys.argv[1:3]
ours = {}
for line in subprocess.run([binary, folder], capture_output=True, check=True).stdout.splitlines():
    row = json.loads(line)
    ours[row["path"]] = row
tags = ["ImageWidth", "ImageHeight", "IFD0:Orientation", "IFD0:Make", "IFD0:Model",
        "ExifIFD:DateTimeOriginal", "ExifIFD:CreateDate", "IFD0:ModifyDate",
        "ExifIFD:OffsetTimeOriginal", "ExifIFD:OffsetTime", "GPS:GPSLatitude", "GPS:GPSLongitude",
        "GPS:GPSLatitudeRef", "GPS:GPSLongitudeRef"]
raw = subprocess.run(["exiftool", "-json", "-n", "-r", "-fast", "-G1"] + ["-" + t for t in tags] + [folder],
                     capture_output=True).stdout
theirs = {row["SourceFile"][len(folder.rstrip("/")) + 1:]: row for row in json.loads(raw)}

same, different, shown = collections.Counter(), collections.Counter(), 0


def clean(text):
    text = "".join(c for c in str(text) if c.isprintable()).strip()[:64]
    return text or None


def compare(path, field, mine, other):
    global shown
    if mine == other:
        same[field] += 1
        return
    different[field] += 1
    print(f"{field:12} {path}: {mine!r} / exiftool {other!r}")


for path, row in sorted(ours.items()):
    them = theirs.get(path)
    if them is None:
        continue
    get = lambda name: them.get(name)
    size = [(g.split(":")[0], them[g]) for g in them if g.endswith(":ImageWidth")]
    width = get("File:ImageWidth") or get("PNG:ImageWidth") or get("RIFF:ImageWidth") or get("IFD0:ImageWidth")
    height = get("File:ImageHeight") or get("PNG:ImageHeight") or get("RIFF:ImageHeight") or get("IFD0:ImageHeight")
    if width and row["format"] in ("jpeg", "png", "webp", "tiff"):
        compare(path, "size", (row["width"], row["height"]), (width, height))
    orientation = get("IFD0:Orientation")
    if isinstance(orientation, int):
        compare(path, "orientation", row["orientation"], orientation if 1 <= orientation <= 8 else 1)
    for field in ("make", "model"):
        value = get("IFD0:" + field.capitalize())
        compare(path, field, row[field], None if value is None else clean(value))
    taken = get("ExifIFD:DateTimeOriginal") or get("ExifIFD:CreateDate") or get("IFD0:ModifyDate")
    if taken and str(taken)[:4].isdigit() and not str(taken).startswith("0000"):
        compare(path, "taken", row["taken"], str(taken)[:10].replace(":", "-") + "T" + str(taken)[11:19])
    latitude, longitude = get("GPS:GPSLatitude"), get("GPS:GPSLongitude")
    if isinstance(latitude, (int, float)) and isinstance(longitude, (int, float)):
        if get("GPS:GPSLatitudeRef") == "S":
            latitude = -abs(latitude)
        if get("GPS:GPSLongitudeRef") == "W":
            longitude = -abs(longitude)
        mine = row["position"]
        near = mine and abs(mine[0] - latitude) < 1e-6 and abs(mine[1] - longitude) < 1e-6
        compare(path, "position", "near" if near else mine, "near" if near else [latitude, longitude])
print({field: f"{same[field]} same, {different[field]} different" for field in same | different})
