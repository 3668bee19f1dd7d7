//! From a clock on the wall to instants, where clocks are set forward and back.
//!
//! The rule (docs/adr/0021): an expression with fixed hours is due when the wall's clock first reaches
//! or passes a match, so that a time that was skipped is due right after the gap, and one that comes
//! twice the first time only. An expression whose hour begins with `*` is due whenever the clock shows
//! a match: it follows elapsed time. One with fixed hours whose minute begins with `*` is due in both ways:
//! a repeated hour is no hole in it, and a skipped one is made up for once.
//!
//! Zones are read from the system's database where there is one, else from the one that is built in.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::cron::{Civil, Cron, Follows};

/// Names that are zones; a system's folder holds other files too.
static BUNDLED: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// How far back a change of clocks can still matter: offsets lie within 26 hours of each other.
const LOOK_BACK: i64 = 2 * crate::cron::DAY;

#[derive(Clone, Debug)]
pub(crate) struct Zone(TimeZone);

impl Zone {
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let shown = &name[..name.floor_char_boundary(64)];
        let Ok(bundled) = BUNDLED.get(name) else {
            return Err(format!(
                "is {shown:?}, which is no zone; give an IANA name such as UTC, Europe/Berlin or \
                 America/New_York"
            ));
        };
        Ok(Self(jiff::tz::db().get(name).unwrap_or(bundled)))
    }

    /// RFC 3339 with the zone's offset.
    pub(crate) fn local(&self, at_ms: i64) -> String {
        let at = Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::MAX);
        let offset = self.0.to_offset(at);
        at.display_with_offset(offset).to_string()
    }

    /// The first due second after `after`, seconds since 1970.
    pub(crate) fn next_after(&self, cron: &Cron, after: i64) -> Option<i64> {
        match cron.follows() {
            Follows::Elapsed => self.next_elapsed(cron, after),
            Follows::Wall => self.next_fixed(cron, after),
            Follows::Both => {
                let (fixed, elapsed) =
                    (self.next_fixed(cron, after), self.next_elapsed(cron, after));
                fixed.into_iter().chain(elapsed).min()
            }
        }
    }

    fn offset(&self, at: i64) -> Option<i64> {
        let at = Timestamp::from_second(at).ok()?;
        Some(self.0.to_offset(at).seconds().into())
    }

    /// Changes after `after`: when, and the offset from then on.
    fn changes(&self, after: i64) -> Option<impl Iterator<Item = (i64, i64)> + '_> {
        let after = Timestamp::from_second(after).ok()?;
        let changes = self.0.following(after);
        Some(changes.map(|change| {
            (
                change.timestamp().as_second(),
                change.offset().seconds().into(),
            )
        }))
    }

    /// The latest that the wall's clock has shown up to `at`.
    fn high(&self, at: i64) -> Option<Civil> {
        let mut high = at + self.offset(at)?;
        let until = Timestamp::from_second(at + 1).ok()?;
        for change in self.0.preceding(until) {
            let change = change.timestamp().as_second();
            if change < at - LOOK_BACK {
                break;
            }
            let Some(before) = self.offset(change - 1) else {
                break;
            };
            high = high.max(change - 1 + before);
        }
        Some(high)
    }

    fn next_fixed(&self, cron: &Cron, after: i64) -> Option<i64> {
        let wanted = cron.first_from(self.high(after)? + 1)?;
        let mut offset = self.offset(after)?;
        for (change, next_offset) in self.changes(after)? {
            if wanted - offset < change {
                break;
            }
            offset = next_offset;
            if wanted <= change + offset {
                return Some(change); // the clock passes it in one leap
            }
        }
        Some(wanted - offset)
    }

    fn next_elapsed(&self, cron: &Cron, after: i64) -> Option<i64> {
        let mut offset = self.offset(after)?;
        let mut wanted = cron.first_from(after + offset + 1)?;
        for (change, next_offset) in self.changes(after)? {
            if wanted - offset < change {
                break;
            }
            offset = next_offset;
            wanted = cron.first_from(change + offset)?;
        }
        Some(wanted - offset)
    }
}
