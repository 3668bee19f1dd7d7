#!/bin/sh
# A command that leaves its marks: one line at its start, one at its end.
mark() {
  printf '%s %s %s %s %s %s\n' "$1" "$OFFLOOP_JOB_ID" "$OFFLOOP_ATTEMPT" "$OFFLOOP_LEASE" \
    "$(date +%s%3N)" "$$" >>"$CAMPAIGN_JOURNAL"
}
mark start
mark end
echo "{\"lease\":$OFFLOOP_LEASE}"
