//! What operators changed at run time: who, when, from what to what.
//!
//! An entry is written by the engine in the commit of the change that it tells of, so there is none
//! without the other. The newest [`AUDIT_ENTRIES_MAX`] are kept.

use offloop_job::Timestamp;

use crate::Reply;

/// Entries that are kept.
pub const AUDIT_ENTRIES_MAX: u64 = 100_000;
/// Each text of an entry; what is longer is cut.
pub const AUDIT_TEXT_BYTES_MAX: usize = 4 << 10;

/// The audit log, read only: entries come from the changes themselves.
pub trait AuditStore {
    /// The newest entry first.
    fn audit(&self, ask: AuditAsk) -> Reply<AuditPage>;
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub at: Timestamp,
    /// Who: `api`, `config`, or what the caller called itself.
    pub actor: Box<str>,
    /// What was changed: `queue:mail`, `key:acme`, `schedule:nightly`, `group:0199...`.
    pub subject: Box<str>,
    /// What was done: `limit.set`, `limit.remove`, `mode.set`, `schedule.put`, `group.cancel` and alike.
    pub action: Box<str>,
    /// `None`: there was nothing.
    pub before: Option<Box<str>>,
    pub after: Option<Box<str>>,
}

impl AuditEntry {
    /// With every text cut to [`AUDIT_TEXT_BYTES_MAX`], at a character.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            at: self.at,
            actor: cut(self.actor),
            subject: cut(self.subject),
            action: cut(self.action),
            before: self.before.map(cut),
            after: self.after.map(cut),
        }
    }
}

fn cut(text: Box<str>) -> Box<str> {
    if text.len() <= AUDIT_TEXT_BYTES_MAX {
        return text;
    }
    let mut end = AUDIT_TEXT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditAsk {
    /// Of this subject alone.
    pub subject: Option<Box<str>>,
    /// Entries before this number.
    pub before: Option<u64>,
    /// 1 to 500.
    pub limit: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// Each with its number: they grow, and never return.
    pub entries: Vec<(u64, AuditEntry)>,
    /// For the next page, if there is one.
    pub next: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_end_does_not_fill_the_log() {
        let entry = AuditEntry {
            at: Timestamp::default(),
            actor: "ž".repeat(AUDIT_TEXT_BYTES_MAX).into(),
            subject: "queue:mail".into(),
            action: "limit.set".into(),
            before: None,
            after: Some(format!("x{}", "ž".repeat(AUDIT_TEXT_BYTES_MAX)).into()),
        };
        let bounded = entry.bounded();
        assert_eq!(bounded.actor.len(), AUDIT_TEXT_BYTES_MAX);
        assert_eq!(
            bounded.after.map(|text| text.len()),
            Some(AUDIT_TEXT_BYTES_MAX - 1)
        );
        assert_eq!(&*bounded.subject, "queue:mail");
    }
}
