#!/bin/sh
# Ignores SIGTERM, leaves one mark, and sleeps for a day. The journal comes as an argument, because
# some are started without an environment; the fraction of the time of sleep names the run, so that
# it is found by its command line wherever it hides.
#   sleeper.sh JOURNAL JOB ATTEMPT LEASE TOKEN
trap '' TERM INT HUP
printf 'beat %s %s %s %s %s\n' "$2" "$3" "$4" "$(date +%s%3N)" "$$" >>"$1"
exec sleep "86400.$5"
