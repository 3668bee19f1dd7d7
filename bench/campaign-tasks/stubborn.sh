#!/bin/sh
# Ignores every wish to stop, and so do its descendants, each in a session of its own. Each of them
# leaves a mark every few hundredths of a second for as long as it lives.
trap '' TERM INT HUP
mark() {
  printf '%s %s %s %s %s %s\n' "$1" "$OFFLOOP_JOB_ID" "$OFFLOOP_ATTEMPT" "$OFFLOOP_LEASE" \
    "$(date +%s%3N)" "$$" >>"$CAMPAIGN_JOURNAL"
}
generation="${1:-0}"
if [ "$generation" -eq 0 ]; then mark start; fi
if [ "$generation" -lt 2 ]; then
  # The second fork's parent leaves at once: nobody's child any more.
  (setsid sh "$0" "$((generation + 1))" >/dev/null 2>&1 &)
fi
while :; do
  mark beat
  sleep 0.05
done
