#!/bin/sh
# Doubles itself in sessions of its own, 2^9 - 1 processes if nobody stops it; all of them sleep.
#   bomb.sh DEPTH TOKEN
if [ "$1" -gt 0 ]; then
  setsid sh "$0" "$(($1 - 1))" "$2" &
  setsid sh "$0" "$(($1 - 1))" "$2" &
fi
exec sleep "86400.$2"
