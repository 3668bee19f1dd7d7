//! A number on every process of a tree that survives `env -i`, new sessions and the end of its
//! parents: which run of a server it is of, and which executor.
//!
//! RLIMIT_LOCKS has had no effect since Linux 2.4.25, is inherited by everything that is started,
//! and is read in `/proc/PID/limits`, also in the middle of an execve; nobody else has a use for it.
//! A task can lower it once more and so shed its number; then marker, group and adoption are left.

use rustix::process::{Resource, Rlimit, setrlimit};

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
/// Below the run's part: executors are told apart while fewer than 16 million are between them.
const EXECUTOR_BITS: u32 = 24;

/// Of one executor. Never near "unlimited", and never small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag(u64);

/// What the tags of one run share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RunTag(u64);

impl RunTag {
    /// `PLACE.RUN`, as it stands in front of the colon of a marker. FNV-1a.
    pub(crate) fn of(run: &str) -> Self {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        Self(run.bytes().fold(FNV_OFFSET, mix) >> (EXECUTOR_BITS + 3) | 1 << (61 - EXECUTOR_BITS))
    }
}

impl Tag {
    /// Of a marker, `PLACE.RUN:NUMBER`.
    pub(crate) fn of(marker: &str) -> Option<Self> {
        let (run, number) = marker.rsplit_once(':')?;
        let number: u64 = number.parse().ok()?;
        let executor = number & ((1 << EXECUTOR_BITS) - 1);
        Some(Self(RunTag::of(run).0 << EXECUTOR_BITS | executor))
    }

    pub(crate) const fn run(self) -> RunTag {
        RunTag(self.0 >> EXECUTOR_BITS)
    }

    /// On this process and all that it will start. Refused only where somebody has set a lower
    /// bound, as another server's tag; then the marker must do.
    pub(crate) fn put_on(self) {
        let both = Rlimit {
            current: Some(self.0),
            maximum: Some(self.0),
        };
        let _ = setrlimit(Resource::Locks, both);
    }

    pub(crate) fn of_process(pid: i32) -> Option<Self> {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max file locks"))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_executors_and_two_runs_have_tags_of_their_own_that_a_limit_can_hold() {
        let tag = |marker| Tag::of(marker).unwrap();
        let (one, other) = (tag("a-b-c.1-2-1:7"), tag("a-b-c.1-2-1:8"));
        let next_run = tag("a-b-c.1-2-2:7");
        assert_ne!(one, other);
        assert_eq!(one.run(), other.run());
        assert_eq!(one.run(), RunTag::of("a-b-c.1-2-1"));
        assert_ne!(one.run(), next_run.run());
        for tag in [one, other, next_run] {
            assert!(tag.0 > 1 << 60 && tag.0 < i64::MAX as u64, "{tag:?}");
        }
        assert_eq!(
            Tag::of_process(std::process::id() as i32),
            None,
            "unlimited is no tag"
        );
    }
}
