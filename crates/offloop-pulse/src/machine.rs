//! What the machine gives: memory of this process and its control group, and how long work waited
//! for processor, memory and disk (pressure stall information).
//!
//! Formats: proc_pid_statm(5); the kernel's `accounting/psi.rst` and `admin-guide/cgroup-v2.rst`. A
//! file that is missing or odd is an absent figure, never an error.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Everything that could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Resident memory of this process.
    pub rss_bytes: Option<u64>,
    pub cgroup: Option<Cgroup>,
    pub stall: Stalls,
}

/// The control group that this process is in (version 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    pub current_bytes: u64,
    /// The tightest `memory.max` from here to the root; `None`: unlimited.
    pub max_bytes: Option<u64>,
    /// The same of `memory.high`, where the kernel begins to slow it down.
    pub high_bytes: Option<u64>,
    /// Periods in which the group ran into its processor quota, and how long it was held then.
    pub throttled: Option<Throttled>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    pub periods: u64,
    pub total_us: u64,
}

/// Where stalls were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StallOf {
    Cgroup,
    #[default]
    Machine,
}

impl StallOf {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Machine => "machine",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stalls {
    pub of: StallOf,
    pub cpu: Option<Stall>,
    pub memory: Option<Stall>,
    pub io: Option<Stall>,
}

/// How long work stood still for want of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 s in which at least one task waited.
    pub some_avg10: f64,
    pub some_total_us: u64,
    /// The same with every task waiting; the kernel knows none for the processor of a machine.
    pub full_avg10: Option<f64>,
    pub full_total_us: Option<u64>,
}

/// No file here is longer; what is, is cut.
const FILE_BYTES_MAX: u64 = 16 << 10;
const PROC: &str = "/proc";
/// What jobs may take of the memory: the tightest limit of this process's control group, else four
/// fifths of the machine's. `None` where neither is told.
pub fn memory_for_jobs() -> Option<u64> {
    let reader = Reader::open();
    if let Some(most) = reader.read().cgroup.and_then(|group| group.max_bytes) {
        return Some(most);
    }
    let total = parse_total(&text(&reader.proc.join("meminfo"))?)?;
    Some(total / 5 * 4)
}

/// The machine's memory in `/proc/meminfo`.
pub fn parse_total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

const CGROUPS: &str = "/sys/fs/cgroup";
const LEVELS_MAX: usize = 32;

fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Second field of `statm`: resident pages.
pub fn parse_statm(text: &str, page_bytes: u64) -> Option<u64> {
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(page_bytes)
}

/// A file of pressure stall information.
pub fn parse_stall(text: &str) -> Option<Stall> {
    let line = |kind: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some(kind) {
                return None;
            }
            let (mut avg, mut total) = (None, None);
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                match key {
                    "avg10" => avg = value.parse::<f64>().ok(),
                    "total" => total = value.parse::<u64>().ok(),
                    _ => {}
                }
            }
            Some((avg.filter(|avg| (0.0..=100.0).contains(avg))?, total?))
        })
    };
    let (some_avg10, some_total_us) = line("some")?;
    let full = line("full");
    Some(Stall {
        some_avg10,
        some_total_us,
        full_avg10: full.map(|full| full.0),
        full_total_us: full.map(|full| full.1),
    })
}

/// A limit: a number, or `max` for none.
pub fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The path of the unified hierarchy in `/proc/self/cgroup`, below the mount.
pub fn parse_cgroup(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Outside of the namespace's root: not to be seen from here.
    (!path.split('/').any(|part| part == "..")).then_some(path)
}

/// From `cpu.stat`.
pub fn parse_throttled(text: &str) -> Option<Throttled> {
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(key, value)| (key == name).then(|| value.trim().parse().ok())?)
    };
    Some(Throttled {
        periods: field("nr_throttled")?,
        total_us: field("throttled_usec")?,
    })
}

/// Reads the files again and again.
#[derive(Debug)]
pub(crate) struct Reader {
    proc: PathBuf,
    root: PathBuf,
    group: Option<PathBuf>,
}

impl Reader {
    pub(crate) fn open() -> Self {
        Self::at(PROC.into(), CGROUPS.into())
    }

    /// The group is looked up once: servers do not move.
    fn at(proc: PathBuf, root: PathBuf) -> Self {
        let own = text(&proc.join("self/cgroup"));
        let below = own.as_deref().and_then(parse_cgroup);
        let group = below.map(|below| root.join(below));
        // In a container the path may be the host's, and the group is the mount itself.
        let group = group.filter(|group| group.join("memory.current").exists());
        let group =
            group.or_else(|| Some(root.clone()).filter(|r| r.join("memory.current").exists()));
        Self { proc, root, group }
    }

    pub(crate) fn read(&self) -> Machine {
        let page = rustix::param::page_size() as u64;
        let statm = text(&self.proc.join("self/statm"));
        Machine {
            rss_bytes: statm.and_then(|text| parse_statm(&text, page)),
            cgroup: self.cgroup(),
            stall: self.stalls(),
        }
    }

    fn cgroup(&self) -> Option<Cgroup> {
        let group = self.group.as_ref()?;
        let current = text(&group.join("memory.current"))?;
        let tightest = |file: &str| {
            let levels = group.ancestors().take(LEVELS_MAX);
            let levels = levels.take_while(|level| level.starts_with(&self.root));
            levels
                .filter_map(|level| parse_limit(&text(&level.join(file))?))
                .min()
        };
        let throttled = text(&group.join("cpu.stat"));
        Some(Cgroup {
            current_bytes: parse_limit(&current)?,
            max_bytes: tightest("memory.max"),
            high_bytes: tightest("memory.high"),
            throttled: throttled.and_then(|text| parse_throttled(&text)),
        })
    }

    fn stalls(&self) -> Stalls {
        let from = |folder: &Path, end: &str, of| {
            let read = |what: &str| parse_stall(&text(&folder.join(format!("{what}{end}")))?);
            Stalls {
                of,
                cpu: read("cpu"),
                memory: read("memory"),
                io: read("io"),
            }
        };
        if let Some(group) = &self.group {
            let own = from(group, ".pressure", StallOf::Cgroup);
            if own.cpu.is_some() || own.memory.is_some() {
                return own;
            }
        }
        from(&self.proc.join("pressure"), "", StallOf::Machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PSI: &str = "some avg10=1.53 avg60=0.87 avg300=0.20 total=1157622463\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        let stall = parse_stall(PSI).unwrap();
        assert!((stall.some_avg10 - 1.53).abs() < 1e-9);
        assert_eq!(stall.some_total_us, 1_157_622_463);
        assert_eq!(stall.full_total_us, Some(7));
        let only_some = PSI.lines().next().unwrap();
        assert_eq!(parse_stall(only_some).unwrap().full_avg10, None);
        assert_eq!(parse_statm("100 25 3 1 0 8 0\n", 4096), Some(102_400));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("1073741824\n"), Some(1 << 30));
        let mixed = "12:cpu:/x\n0::/system.slice/offloop.service\n";
        assert_eq!(parse_cgroup(mixed), Some("system.slice/offloop.service"));
        assert_eq!(parse_cgroup("0::/../other\n"), None);
        let stat = "usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 900\n";
        let throttled = parse_throttled(stat).unwrap();
        assert_eq!((throttled.periods, throttled.total_us), (3, 900));
    }

    #[test]
    fn a_machine_without_any_of_the_files_is_no_error() {
        let nowhere = PathBuf::from("/nowhere/at/all");
        let machine = Reader::at(nowhere.clone(), nowhere).read();
        assert_eq!(machine, Machine::default());
    }

    #[test]
    fn this_machine_tells_its_resident_memory() {
        let rss = Reader::open().read().rss_bytes.unwrap();
        assert!(rss > 100_000, "{rss}");
    }

    proptest! {
        #[test]
        fn odd_files_are_absent_figures_and_never_a_panic(text in "(?s).{0,300}") {
            let _ = parse_statm(&text, 4096);
            let _ = parse_limit(&text);
            let _ = parse_cgroup(&text);
            let _ = parse_throttled(&text);
            if let Some(stall) = parse_stall(&text) {
                prop_assert!((0.0..=100.0).contains(&stall.some_avg10));
            }
        }

        #[test]
        fn broken_lines_of_the_right_kind_are_no_panic(
            text in "((some|full|nr_throttled|throttled_usec|0::/)? ?((avg10|total)=?)?[-0-9.e+naif]{0,25}[ \n]){0,12}",
        ) {
            if let Some(stall) = parse_stall(&text) {
                prop_assert!(stall.some_avg10.is_finite());
            }
            let _ = parse_throttled(&text);
            let _ = parse_cgroup(&text);
            let _ = parse_statm(&text, u64::MAX);
        }

        #[test]
        fn what_is_written_is_read_again(avg in 0_u32..=10_000, total: u64) {
            let text = format!("some avg10={}.{:02} avg60=0.00 avg300=0.00 total={total}\n", avg / 100, avg % 100);
            let stall = parse_stall(&text).unwrap();
            prop_assert!((stall.some_avg10 - f64::from(avg) / 100.0).abs() < 1e-9);
            prop_assert_eq!(stall.some_total_us, total);
        }
    }
}
