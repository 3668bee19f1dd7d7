//! S11, the child escape suite: what a task can reach, with its sandbox on and without one.
//!
//! Every attempt is made twice. With the sandbox it must be denied; without it must succeed, which
//! shows that the attempt is a real one. The table in docs/guides/sandbox.md is this one.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![allow(
    clippy::needless_raw_string_hashes,
    reason = "all scripts are written alike"
)]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use common::{Bench, installed, perl_child, quick};
use offloop_job::{FailureClass, Outcome};
use offloop_lane::{Ended, Lane};
use offloop_lane_process::{Host, HostConfig, ProcessLane, ProcessSpec, SHIM_COMMAND, Sandbox};
use support::{TestSink, eventually, failed_as, info, result, work};

/// One way out. The script is Perl; it exits with 0 if it got out and with 7 if it was denied,
/// anything else is a mistake of the test.
struct Attempt {
    name: &'static str,
    /// The options that close it: n(o_network), r(ead_only), h(idden) or any.
    closed_by: &'static str,
    script: &'static str,
}

const fn attempt(name: &'static str, closed_by: &'static str, script: &'static str) -> Attempt {
    Attempt {
        name,
        closed_by,
        script,
    }
}

/// Shared by all scripts.
const HEAD: &str = r#"
use strict; use warnings; use Socket; use Errno; use Fcntl;
my ($place, $server, $other, $tcp, $udp) = @ARGV;
$_ += 0 for $server, $other, $tcp, $udp; # as numbers for system calls
my $arm = `uname -m` =~ /aarch64/;
sub nr { my ($x86, $generic) = @_; return $arm ? $generic : $x86 }
sub got { print "got out: @_\n"; exit 0 }
sub denied { my $why = "$!"; print "denied: @_ ($why)\n"; exit 7 }
"#;

const ATTEMPTS: &[Attempt] = &[
    attempt(
        "write a file elsewhere",
        "read_only",
        r#"open(my $f, '>', "$place/outside/new") or denied; print $f "x"; close $f; got"#,
    ),
    attempt(
        "change a file elsewhere",
        "read_only",
        r#"open(my $f, '+<', "$place/outside/old") or denied; got"#,
    ),
    attempt(
        "cut a file elsewhere",
        "read_only",
        r#"truncate("$place/outside/old", 0) or denied; got"#,
    ),
    attempt(
        "delete a file elsewhere",
        "read_only",
        r#"unlink("$place/outside/doomed") or denied; got"#,
    ),
    attempt(
        "read the server's database",
        "any option",
        r#"open(my $f, '<', "$place/data/offloop.db") or denied; got scalar <$f>"#,
    ),
    attempt(
        "write the server's database",
        "any option",
        r#"open(my $f, '>>', "$place/data/offloop.db") or denied; got"#,
    ),
    attempt(
        "list the data directory",
        "any option",
        r#"opendir(my $d, "$place/data") or denied; got readdir $d"#,
    ),
    attempt(
        "reach the database by a link",
        "any option",
        r#"symlink("$place/data/offloop.db", "$ENV{TMPDIR}/link$$") or denied "link";
           open(my $f, '<', "$ENV{TMPDIR}/link$$") or denied; got scalar <$f>"#,
    ),
    attempt(
        "reach the database by /proc/SERVER/root",
        "any option",
        r#"open(my $f, '<', "/proc/$server/root$place/data/offloop.db") or denied; got scalar <$f>"#,
    ),
    attempt(
        "read a hidden folder",
        "hidden",
        r#"open(my $f, '<', "$place/keys/key") or denied; got scalar <$f>"#,
    ),
    attempt(
        "open other devices: disks, the kernel's log",
        "any option",
        r#"open(my $f, '<', "/dev/kmsg") or denied; got"#,
    ),
    attempt(
        "make a device",
        "any option",
        r#"my $at = "$ENV{TMPDIR}/dev$$"; syscall(nr(133, 33), nr($at, -100), nr(0020600, $at), nr(0x101, 0020600), 0x101) == 0 or denied;
           unlink $at; got"#,
    ),
    attempt(
        "change the kernel's settings",
        "any option",
        r#"my $at = "/proc/sys/kernel/panic"; open(my $i, '<', $at); my $v = <$i>;
           open(my $f, '>', $at) or denied; print $f $v; close $f or denied; got"#,
    ),
    attempt(
        "TCP to a listener on loopback",
        "network = false",
        r#"socket(my $s, AF_INET, SOCK_STREAM, 0) or denied; connect($s, sockaddr_in($tcp, inet_aton("127.0.0.1"))) or denied; got"#,
    ),
    attempt(
        "UDP",
        "network = false",
        r#"socket(my $s, AF_INET, SOCK_DGRAM, 0) or denied; send($s, "hello", 0, sockaddr_in($udp, inet_aton("127.0.0.1"))) or denied; got"#,
    ),
    attempt(
        "an abstract Unix socket",
        "network = false",
        r#"socket(my $s, AF_UNIX, SOCK_STREAM, 0) or denied; connect($s, sockaddr_un("\0offloop-escape-$server")) or denied; got"#,
    ),
    attempt(
        "a Unix socket by its path",
        "network = false",
        r#"socket(my $s, AF_UNIX, SOCK_STREAM, 0) or denied; connect($s, sockaddr_un("$place/outside/sock")) or denied; got"#,
    ),
    attempt(
        "a datagram out of a socket pair",
        "network = false",
        r#"socketpair(my $a, my $b, AF_UNIX, SOCK_DGRAM, 0) or denied; send($a, "hello", 0, sockaddr_un("$place/outside/gram")) or denied; got"#,
    ),
    attempt(
        "a raw netlink socket",
        "network = false",
        r#"socket(my $s, 16, SOCK_RAW, 0) or denied; got"#,
    ),
    attempt(
        "ptrace another task",
        "any option",
        r#"syscall(nr(101, 117), 0x4206, $other, 0, 0) == 0 or denied; got"#,
    ),
    attempt(
        "read another task's memory",
        "any option",
        r#"open(my $f, '<', "/proc/$other/mem") or denied; got"#,
    ),
    attempt(
        "write the server's memory",
        "any option",
        r#"open(my $f, '+<', "/proc/$server/mem") or denied; got"#,
    ),
    attempt(
        "read the server's environment",
        "any option",
        r#"open(my $f, '<', "/proc/$server/environ") or denied; defined(my $x = <$f>) or denied; got"#,
    ),
    attempt(
        "steal a descriptor of the server",
        "any option",
        r#"my $p = syscall(434, $server, 0); $p >= 0 or denied "open"; syscall(438, $p, 0, 0) >= 0 or denied; got"#,
    ),
    attempt(
        "signal the server",
        "any option",
        r#"kill(0, $server) or denied; got"#,
    ),
    attempt(
        "signal another task",
        "any option",
        r#"kill('CONT', $other) or denied; got"#,
    ),
    attempt(
        "leave its control group",
        "any option",
        r#"my ($m) = map { (split)[4] } grep { / - cgroup2 / } do { open(my $f, '<', '/proc/self/mountinfo'); <$f> };
           open(my $f, '>', "$m/cgroup.procs") or denied; syswrite($f, "0") or denied; got"#,
    ),
    attempt(
        "a new user or mount name space",
        "any option",
        r#"syscall(nr(272, 97), 0x00020000) == 0 or denied; got"#,
    ),
    attempt(
        "mount a file system",
        "any option",
        r#"my $at = "$ENV{TMPDIR}/m$$"; mkdir $at; my ($t, $o) = ("tmpfs", "");
           my ($none, $root) = ("none", "/"); syscall(nr(272, 97), 0x00020000) == 0 or denied;
           syscall(nr(165, 40), $none, $root, 0, 0x44000, 0) == 0 or denied; # nothing gets back
           syscall(nr(165, 40), $t, $at, $t, 0, $o) == 0 or denied; got"#,
    ),
    attempt(
        "an io_uring, which filters cannot see into",
        "any option",
        r#"my $p = "\0" x 120; syscall(425, 4, $p) >= 0 or denied; got"#,
    ),
    attempt(
        "load a program into the kernel",
        "any option",
        r#"my $a = pack("LLLLx112", 1, 4, 4, 1); syscall(nr(321, 280), 0, $a, length $a) >= 0 or denied; got"#,
    ),
];

struct Place {
    folder: tempfile::TempDir,
    host: Arc<Host>,
    tcp: TcpListener,
    udp: UdpSocket,
    _socket: UnixListener,
    _gram: std::os::unix::net::UnixDatagram,
}

/// Its name is the process's, so it is there as long as the process: for all tests at once.
static ABSTRACT: LazyLock<UnixListener> = LazyLock::new(|| {
    let name = format!("offloop-escape-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    UnixListener::bind_addr(&address).unwrap()
});

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["data", "outside", "keys", "work"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        for name in ["data/offloop.db", "outside/old", "keys/key"] {
            std::fs::write(at(name), "secret\n").unwrap();
        }
        let host = HostConfig::new(at("data/run"))
            .data(at("data"))
            .shim(common::probe(), [SHIM_COMMAND])
            .environment(std::env::vars_os());
        let host = Host::open(host).unwrap();
        LazyLock::force(&ABSTRACT);
        let socket = UnixListener::bind(at("outside/sock")).unwrap();
        let gram = std::os::unix::net::UnixDatagram::bind(at("outside/gram")).unwrap();
        Self {
            host,
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            _socket: socket,
            _gram: gram,
            folder,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn perl(&self, script: &str, other: u32, sandbox: &Sandbox) -> ProcessSpec {
        let port =
            |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port().to_string();
        let command = [
            "perl".to_owned(),
            "-e".to_owned(),
            format!("{HEAD}{script}"),
            self.folder.path().to_str().unwrap().to_owned(),
            std::process::id().to_string(),
            other.to_string(),
            port(self.tcp.local_addr()),
            port(self.udp.local_addr()),
        ];
        let mut spec = quick(ProcessSpec::exec(info("task"), command));
        spec.sandbox = sandbox.clone();
        if !sandbox_is_on(sandbox) {
            // The attempts need a folder that they may fill, in both runs.
            spec.env.insert("TMPDIR".into(), self.at("work").into());
        }
        spec
    }

    fn run(&self, spec: ProcessSpec) -> Ended {
        let (lane, sink) = (ProcessLane::new(spec, self.host.clone()), TestSink::new());
        lane.open(sink.clone()).unwrap();
        lane.start(vec![work(1, "task", "null")]);
        sink.ended(1)
    }

    /// Whether the attempt got out, and what it said.
    fn escapes(&self, attempt: &Attempt, other: u32, sandbox: &Sandbox) -> (bool, String) {
        std::fs::write(self.at("outside/doomed"), "").unwrap();
        std::fs::write(self.at("outside/old"), "old").unwrap();
        let ended = self.run(self.perl(attempt.script, other, sandbox));
        let said = String::from_utf8_lossy(&ended.log.head).trim().to_owned();
        match &ended.outcome {
            Outcome::Completed { .. } => (true, said),
            Outcome::Failed(failure) if failure.exit_code == Some(7) => (false, said),
            outcome => panic!("{}: {outcome:?}; {said}", attempt.name),
        }
    }
}

fn sandbox_is_on(sandbox: &Sandbox) -> bool {
    *sandbox != Sandbox::default()
}

fn all_on(place: &Place) -> Sandbox {
    Sandbox {
        no_network: true,
        read_only: true,
        writable: vec![place.at("work")],
        hidden: vec![place.at("keys")],
    }
}

/// Another task, to be attacked.
fn victim(place: &Place) -> (ProcessLane, u32) {
    let spec = ProcessSpec::exec(info("task"), ["sleep", "1000"]);
    let (lane, sink) = (ProcessLane::new(spec, place.host.clone()), TestSink::new());
    lane.open(sink.clone()).unwrap();
    lane.start(vec![work(1, "task", "null")]);
    let pid = sink.started(1)[4..].parse().unwrap();
    eventually("the victim runs", || {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"sleep")
    });
    (lane, pid)
}

#[test]
fn no_attempt_to_escape_succeeds_in_the_sandbox_and_each_succeeds_without() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: without privilege many attempts fail by themselves");
        return;
    }
    let place = Place::new();
    let (_lane, other) = victim(&place);
    let (on, off) = (all_on(&place), Sandbox::default());
    let mut wrong = Vec::new();
    for attempt in ATTEMPTS {
        for (sandbox, want) in [(&on, false), (&off, true)] {
            let (escaped, said) = place.escapes(attempt, other, sandbox);
            println!("{}: {said}", attempt.name);
            if escaped != want {
                let with = if want { "without" } else { "with" };
                wrong.push(format!("{} {with} a sandbox: {said}", attempt.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the table promises of a single option.
#[test]
fn each_option_alone_closes_what_the_guide_says_of_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: without privilege many attempts fail by themselves");
        return;
    }
    let place = Place::new();
    let (_lane, other) = victim(&place);
    let all = all_on(&place);
    let only = [
        (
            "network = false",
            Sandbox {
                no_network: true,
                ..Sandbox::default()
            },
        ),
        (
            "read_only",
            Sandbox {
                writable: all.writable,
                read_only: true,
                ..Sandbox::default()
            },
        ),
        (
            "hidden",
            Sandbox {
                hidden: all.hidden,
                ..Sandbox::default()
            },
        ),
    ];
    let mut wrong = Vec::new();
    for attempt in ATTEMPTS {
        for (option, sandbox) in &only {
            let (escaped, said) = place.escapes(attempt, other, sandbox);
            let closed = attempt.closed_by == *option || attempt.closed_by == "any option";
            if escaped == closed {
                wrong.push(format!("{} with {option}: {said}", attempt.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_guide_s_table_is_the_suite_s() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/sandbox.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let mut table = String::from("| attempt | without a sandbox | closed by |\n|---|---|---|\n");
    for attempt in ATTEMPTS {
        let row = [attempt.name, "possible", attempt.closed_by].join(" | ");
        table.extend(["| ", &row, " |\n"]);
    }
    assert!(
        guide.contains(&table),
        "put this table into the guide:\n{table}"
    );
}

#[test]
fn a_task_in_the_sandbox_can_still_work() {
    let place = Place::new();
    let script = r#"
        open(my $p, '<', '/etc/passwd') or denied "read"; scalar(<$p>) or denied;
        for my $at ("$place/work/file", "$ENV{TMPDIR}/file", "/dev/null") {
            open(my $f, '>', $at) or denied $at; print $f "x"; close $f or denied $at;
        }
        mkdir "$ENV{TMPDIR}/sub" or denied; rename "$ENV{TMPDIR}/file", "$ENV{TMPDIR}/sub/f" or denied;
        socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or denied "pair";
        my $child = fork // denied "fork"; if (!$child) { sleep 100 } kill 'KILL', $child or denied "kill";
        waitpid $child, 0; my $said = `echo said 2>/dev/null`; $said eq "said\n" or denied "run";
        open(my $e, '>>', '/dev/stderr') or denied "stderr"; print $e "fine\n"; got
    "#;
    let ended = place.run(place.perl(script, 1, &all_on(&place)));
    assert!(
        matches!(ended.outcome, Outcome::Completed { .. }),
        "{ended:?}"
    );
}

#[test]
fn warm_children_serve_in_the_sandbox() {
    let place = Place::new();
    let node = "export default (n) => n + 1;";
    let python = "def handle(n, ctx): return n + 1";
    let perl = perl_child("$out = $data + 1;");
    let files = [("n.mjs", node), ("p.py", python), ("c.pl", &*perl)];
    for (program, (name, text)) in ["node", "python3", "perl"].into_iter().zip(files) {
        if !installed(program, "warm_children_serve_in_the_sandbox") {
            continue;
        }
        let file = place.at("outside").join(name);
        std::fs::write(&file, text).unwrap();
        let command = [program.into(), file.into_os_string()];
        let mut spec = quick(ProcessSpec::process(info("task"), command));
        spec.sandbox = all_on(&place);
        let (lane, sink) = (ProcessLane::new(spec, place.host.clone()), TestSink::new());
        lane.open(sink.clone()).unwrap();
        lane.start(vec![work(1, "task", "41")]);
        assert_eq!(result(&sink.ended(1)), "42", "{program}");
    }
}

#[test]
fn a_scratch_folder_goes_with_its_task_even_if_it_was_locked() {
    let place = Place::new();
    let script = r#"mkdir "$ENV{TMPDIR}/d"; open(my $f, '>', "$ENV{TMPDIR}/d/f") or denied; close $f;
        chmod 0, "$ENV{TMPDIR}/d" or denied; print $ENV{TMPDIR}, "\n"; got"#;
    let ended = place.run(place.perl(script, 1, &all_on(&place)));
    let said = String::from_utf8_lossy(&ended.log.head).into_owned();
    let scratch = Path::new(said.lines().next().unwrap());
    let folders = place.at("data/run/executors");
    assert!(scratch.starts_with(&folders), "{said}");
    eventually("removed", || {
        std::fs::read_dir(&folders).unwrap().count() == 0
    });
}

#[test]
fn a_killed_server_s_scratch_folders_are_removed_by_the_next() {
    let bench = Bench::new();
    let folders = bench.folder.path().join("run/executors");
    let of_dead = folders.join("1-2-3.7/scratch/deep");
    std::fs::create_dir_all(&of_dead).unwrap();
    std::fs::write(of_dead.join("file"), "x").unwrap();
    let start = std::fs::read_to_string("/proc/self/stat").unwrap();
    let start = start
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(19)
        .unwrap()
        .to_owned();
    let of_living = folders.join(format!("{}-{start}-1.7/scratch", std::process::id()));
    std::fs::create_dir_all(&of_living).unwrap();
    bench.host.clear_leftovers().unwrap();
    assert!(!folders.join("1-2-3.7").exists());
    assert!(of_living.exists(), "a living server's was taken");
}

#[test]
fn a_wish_that_cannot_hold_is_told_before_any_job() {
    let place = Place::new();
    let missing = Sandbox {
        hidden: vec![place.at("missing")],
        ..Sandbox::default()
    };
    let inside = Sandbox {
        read_only: true,
        writable: vec![place.at("data")],
        ..Sandbox::default()
    };
    for (sandbox, says) in [
        (missing, "make it or take it out"),
        (inside, "name a folder beside"),
    ] {
        let spec = place.perl("got", 1, &sandbox);
        let lane = ProcessLane::new(spec, place.host.clone());
        let error = lane.open(TestSink::new()).unwrap_err();
        assert!(error.message.contains(says), "{error}");
    }
}

/// A folder that goes between the check and a start: the start fails, never the sandbox.
#[test]
fn a_sandbox_that_cannot_be_put_on_fails_the_start_and_runs_nothing() {
    let place = Place::new();
    let sandbox = all_on(&place);
    let spec = place.perl(
        r#"open(my $f, '>', "$place/outside/ran"); got"#,
        1,
        &sandbox,
    );
    let (lane, sink) = (ProcessLane::new(spec, place.host.clone()), TestSink::new());
    lane.open(sink.clone()).unwrap();
    std::fs::remove_dir(place.at("work")).unwrap();
    lane.start(vec![work(1, "task", "null")]);
    failed_as(&sink.ended(1), FailureClass::Error, "`writable`");
    assert!(!place.at("outside/ran").exists());
    let folders = || std::fs::read_dir(place.at("data/run/executors"));
    eventually("removed", || folders().unwrap().count() == 0);
}

/// no_new_privs holds with and without a sandbox.
#[test]
fn a_setuid_program_gives_a_task_nothing() {
    if !rustix::process::geteuid().is_root() || !installed("setpriv", "a_setuid_program") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let open = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(folder.path(), open(0o755)).unwrap();
    std::fs::copy("/usr/bin/id", at("id")).unwrap();
    std::fs::set_permissions(at("id"), open(0o4755)).unwrap();
    let id = at("id").to_str().unwrap().to_owned();
    let argv = ["setpriv", "--reuid=65534", "--clear-groups", &id, "-u"];
    #[expect(
        clippy::disallowed_methods,
        reason = "the same outside of any lane, for comparison"
    )]
    let outside = std::process::Command::new(argv[0])
        .args(&argv[1..])
        .output()
        .unwrap();
    assert_eq!(
        outside.stdout, b"0\n",
        "the test's program gains nothing anywhere"
    );
    let bench = Bench::new();
    let (lane, sink) = bench.open(quick(ProcessSpec::exec(info("task"), argv)));
    lane.start(vec![work(1, "task", "null")]);
    assert_eq!(result(&sink.ended(1)), "65534");
}
