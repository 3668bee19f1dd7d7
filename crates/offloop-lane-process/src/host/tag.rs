//! A mark on every process of a run that survives `env -i`, new sessions and the end of its parents.
//!
//! RLIMIT_LOCKS has had no effect since Linux 2.4.25, is inherited by everything that is started,
//! and is read in `/proc/PID/limits`; nobody else has a use for it. The shim sets it to a number
//! made of the run's name. After a killed server it finds what the marker and the group do not: a
//! process that was started without an environment, in a session of its own, by a parent that has
//! ended. (While a server lives its undertaker finds those among its adopted children.)

use rustix::process::{Resource, Rlimit, setrlimit};

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// Of `PLACE.RUN`, as it stands in front of the colon of a marker. FNV-1a; never near "unlimited".
pub(crate) fn of_run(run: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    run.bytes().fold(FNV_OFFSET, mix) >> 2 | 1 << 61
}

/// On this process and all that it will start. Refused only where somebody has set a lower bound,
/// as another server's tag; then the marker must do.
pub(crate) fn put_on(marker: &str) {
    let tag = marker.rsplit_once(':').map(|(run, _)| of_run(run));
    let both = Rlimit {
        current: tag,
        maximum: tag,
    };
    let _ = setrlimit(Resource::Locks, both);
}

pub(crate) fn of_process(pid: i32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_have_two_tags_that_a_limit_can_hold() {
        let (one, other) = (of_run("a-b-c.1-2-1"), of_run("a-b-c.1-2-2"));
        assert_ne!(one, other);
        for tag in [one, other] {
            assert!(tag > 1 << 60 && tag < i64::MAX as u64, "{tag}");
        }
        assert_eq!(
            of_process(std::process::id() as i32),
            None,
            "unlimited is no tag"
        );
    }
}
