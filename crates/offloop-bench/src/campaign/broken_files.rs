//! L4: thousands of files that are broken in every way, then one line and one sound file of any
//! size, through the whole program into a table.
//!
//! Whatever comes, the server answers soon, says where the fault is, and the table holds as many
//! rows as the answers together say.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::dice::Dice;
use super::http::Client;
use super::procfs::MemoryWatch;
use super::server::Setup;
use super::table::Place;
use super::{Run, rounded, spread};

const FILES: u32 = 5_000;
const SENDERS: u64 = 4;
const MEGABYTES: u64 = 1_000;
const MEMORY: u64 = 64 << 20;
/// A file of some kilobytes is answered within this, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(30);
const HEADER: &str = "id,name,amount,day\n";
/// Sound rows before a line that never ends.
const BEFORE: u64 = 100;

#[derive(Debug)]
struct Told {
    status: u16,
    body: Value,
    took: Duration,
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let files = u64::from(run.cycles.unwrap_or(FILES));
    let megabytes = run.megabytes.unwrap_or(MEGABYTES);
    let place = Place::sqlite(run);
    let setup = run.setup(&config(&place)?)?;
    let server = setup.start()?;
    let idle = server.memory("VmRSS");
    run.figure("idle_rss_mib", idle >> 20);

    let memory = MemoryWatch::start(server.pid());
    broken(run, &setup, &place, files)?;
    judge_memory(run, "files", memory.finish(), idle);
    for (name, quote) in [("line", false), ("open_quote", true)] {
        let memory = MemoryWatch::start(server.pid());
        one_line(run, &setup, name, quote, megabytes)?;
        judge_memory(run, name, memory.finish(), idle);
    }
    let memory = MemoryWatch::start(server.pid());
    sound(run, &setup, &place, megabytes)?;
    judge_memory(run, "sound", memory.finish(), idle);
    let answer = setup.client().get("/readyz");
    if !answer.is_ok_and(|answer| answer.status == 200) {
        run.breach("the server is not ready afterwards");
    }
    Ok(())
}

fn config(place: &Place) -> anyhow::Result<String> {
    let (more, sink) = place.declared()?;
    let columns = "columns = [\n{ name = \"id\", type = \"int8\" },\n{ name = \"name\", type = \"text\" },\n\
                   { name = \"amount\", type = \"float\", null = true },\n{ name = \"day\", type = \"date\" },\n]";
    let target = |name: &str, rule: &str| {
        format!(
            "[ingest.targets.{name}]\n{sink}\ntable = \"{name}\"\ncreate = true\n\
             on_bad_row = \"{rule}\"\n{columns}\n"
        )
    };
    Ok(format!(
        "[ingest]\n{more}\n{}{}{}",
        target("rejecting", "reject"),
        target("stopping", "stop"),
        target("large", "reject")
    ))
}

fn judge_memory(run: &mut Run, part: &str, most: u64, idle: u64) {
    let over = most.saturating_sub(idle);
    run.figure(&format!("{part}_rss_over_idle_mib"), over >> 20);
    if over > MEMORY {
        let (over, limit) = (over >> 20, MEMORY >> 20);
        run.breach(format!("{part}: {over} MiB over idle; the goal is {limit}"));
    }
}

/// Each file goes to the target that puts bad rows aside and to the one that stops at the first.
fn broken(run: &mut Run, setup: &Setup, place: &Place, files: u64) -> anyhow::Result<()> {
    let next = AtomicU64::new(0);
    let stored = [AtomicU64::new(0), AtomicU64::new(0)];
    let found = Mutex::new((Vec::new(), Vec::new(), [0_u64; 6]));
    let seeds: Vec<_> = (0..files).map(|_| run.dice.split()).collect();
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                let mut client = setup.client();
                loop {
                    let at = next.fetch_add(1, Ordering::AcqRel);
                    let Some(dice) = seeds.get(at as usize) else {
                        return;
                    };
                    let file = file(&mut dice.clone(), at);
                    for (which, target) in ["rejecting", "stopping"].into_iter().enumerate() {
                        let told = send(setup.address, target, &format!("{target}-{at}"), &file);
                        let judged = told.and_then(|told| {
                            let why = judge(&mut client, target, at, &told);
                            stored[which].fetch_add(count(&told, "stored"), Ordering::AcqRel);
                            why.map(|()| told)
                        });
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        match judged {
                            Ok(told) => {
                                found.1.push(told.took);
                                found.2[usize::from(told.status / 100).min(5)] += 1;
                            }
                            Err(error) => found.0.push(format!("file {at} to {target}: {error:#}")),
                        }
                    }
                }
            });
        }
    });
    let (breaches, times, classes) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    for breach in breaches {
        run.breach(breach);
    }
    run.figure("files", files);
    run.figure("answers_2xx", classes[2]);
    run.figure("answers_4xx", classes[4]);
    run.figure("answers_ms", spread(&times));
    for (which, target) in ["rejecting", "stopping"].into_iter().enumerate() {
        let held: u64 = place
            .ask(&format!("select count(*) from {target}"))?
            .trim()
            .parse()?;
        let told = stored[which].load(Ordering::Acquire);
        run.figure(&format!("{target}_rows"), held);
        if held != told {
            run.breach(format!("{target}: {held} rows, the answers said {told}"));
        }
    }
    Ok(())
}

/// A small file and up to five things that are wrong with it.
fn file(dice: &mut Dice, number: u64) -> Vec<u8> {
    let mut text = String::from(HEADER);
    for row in 0..dice.between(1, 200) {
        let name = [
            "plain",
            "\"a, comma\"",
            "\"two \"\"quotes\"\"\"",
            "\"a\nline\"",
            "\u{e9}\u{4e2d}",
        ][dice.between(0, 5) as usize];
        let amount = dice.between(0, 100_000) as f64 / 100.0;
        let (id, day) = (number * 1_000 + row, dice.between(1, 29));
        let _ = writeln!(text, "{id},{name},{amount},2026-02-{day:02}"); // takes everything
    }
    let mut bytes = text.into_bytes();
    for _ in 0..dice.between(1, 6) {
        harm(dice, &mut bytes);
    }
    bytes
}

fn harm(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let len = bytes.len() as u64;
    let at = dice.between(0, len + 1) as usize;
    let to = at + dice.between(0, 1 + (len - at as u64).min(80)) as usize;
    let put = |bytes: &mut Vec<u8>, what: &[u8]| {
        bytes.splice(at..at, what.iter().copied());
    };
    match dice.between(0, 18) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..to)),
        2 => {
            let noise: Vec<u8> = (0..dice.between(1, 60))
                .map(|_| dice.roll() as u8)
                .collect();
            put(bytes, &noise);
        }
        3 => put(bytes, b"\0"),
        4 => put(bytes, b"\""),
        5 => put(bytes, b"\"\""),
        6 => put(bytes, HEADER.as_bytes()),
        7 => put(bytes, &vec![b'x'; dice.between(1, 3_000_000) as usize]),
        8 => put(bytes, &vec![b','; dice.between(1, 20_000) as usize]),
        9 => bytes.retain(|byte| *byte != b'\n'),
        10 => {
            let windows = String::from_utf8_lossy(bytes).replace('\n', "\r\n");
            *bytes = windows.into_bytes();
        }
        11 => bytes
            .iter_mut()
            .filter(|byte| **byte == b',')
            .for_each(|byte| *byte = b';'),
        12 => {
            let wide = String::from_utf8_lossy(bytes).into_owned();
            *bytes = [0xff, 0xfe]
                .into_iter()
                .chain(wide.encode_utf16().flat_map(u16::to_le_bytes))
                .collect();
        }
        13 => put(bytes, &[0xe9, 0xff, 0xc0, 0x80]),
        14 => put(
            bytes,
            "99999999999999999999,x,1e999,2026-13-45\n".as_bytes(),
        ),
        15 => put(bytes, &[0xef, 0xbb, 0xbf]),
        16 => put(bytes, &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
        _ => put(bytes, b"\r\r\n\n"),
    }
}

fn send(to: SocketAddr, target: &str, load: &str, file: &[u8]) -> anyhow::Result<Told> {
    post(to, target, load, file.len() as u64, std::iter::once(file))
}

/// Sends the pieces as one body and reads the answer.
fn post<'a>(
    to: SocketAddr,
    target: &str,
    load: &str,
    bytes: u64,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> anyhow::Result<Told> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "POST /v1/ingest/{target}?load={load} HTTP/1.1\r\nhost: {to}\r\ncontent-type: text/csv\r\n\
         connection: close\r\ncontent-length: {bytes}\r\n\r\n"
    );
    let began = Instant::now();
    stream.write_all(head.as_bytes())?;
    for piece in pieces {
        // A refusal may be there before everything is taken.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut text = Vec::new();
    stream.read_to_end(&mut text).context("no whole answer")?;
    let (status, body) = super::http::parse(&text);
    Ok(Told {
        status,
        body,
        took: began.elapsed(),
    })
}

fn count(told: &Told, name: &str) -> u64 {
    told.body[name].as_u64().unwrap_or(0)
}

/// Whether an answer is one that a person can use.
fn judge(client: &mut Client, target: &str, at: u64, told: &Told) -> anyhow::Result<()> {
    anyhow::ensure!(told.took <= SOON, "took {:?}", told.took);
    let told_class = matches!(told.status, 200 | 400 | 413 | 415 | 422);
    anyhow::ensure!(told_class, "answered {told:?}");
    if told.status != 200 {
        let detail = told.body["detail"].as_str().unwrap_or_default();
        let says_where = ["row ", "byte ", "header"]
            .iter()
            .any(|word| detail.contains(word));
        anyhow::ensure!(says_where, "does not say where: {told:?}");
        return Ok(());
    }
    let rejected = count(told, "rejected");
    anyhow::ensure!(
        count(told, "stored") + rejected == count(told, "rows"),
        "rows are unaccounted for: {told:?}"
    );
    // The file of refused rows says of each where and why.
    if rejected > 0 {
        let path = format!("/v1/ingest/loads/{target}-{at}/rejects");
        let answer = client
            .get(&path)
            .map_err(|error| anyhow::anyhow!("{path}: {error:?}"))?;
        let lines = String::from_utf8(answer.body)?;
        let whole = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|line| {
                line["row"].is_u64() && line["offset"].is_u64() && line["reason"].is_string()
            })
        };
        anyhow::ensure!(
            lines.lines().count() as u64 == rejected && lines.lines().all(whole),
            "the file of refused rows has not {rejected} lines with row, offset and reason"
        );
    }
    Ok(())
}

fn rows(from: u64, count: u64) -> String {
    let mut text = String::new();
    for id in from..from + count {
        let _ = writeln!(
            text,
            "{id},a name of some length for number {id},{}.25,2026-02-03",
            id % 997
        );
    }
    text
}

/// Sound rows, then one record that does not end for `megabytes`.
fn one_line(
    run: &mut Run,
    setup: &Setup,
    name: &str,
    quoted: bool,
    megabytes: u64,
) -> anyhow::Result<()> {
    let start = format!(
        "{HEADER}{}1,{}",
        rows(0, BEFORE),
        if quoted { "\"" } else { "" }
    );
    // Line ends inside quotes are text.
    let mut piece = vec![b'x'; 1_000_000];
    if quoted {
        piece.iter_mut().step_by(100).for_each(|byte| *byte = b'\n');
    }
    let bytes = start.len() as u64 + megabytes * 1_000_000;
    let pieces = (0..megabytes).map(|_| &piece[..]);
    let pieces = std::iter::once(start.as_bytes()).chain(pieces);
    let told = post(
        setup.address,
        "large",
        &format!("large-{name}"),
        bytes,
        pieces,
    )?;
    let per_second = bytes as f64 / 1e6 / told.took.as_secs_f64();
    run.figure(&format!("{name}_mb_per_s"), rounded(per_second));
    run.figure(&format!("{name}_status"), told.status);
    if count(&told, "stored") < BEFORE {
        run.breach(format!(
            "{name}: the {BEFORE} sound rows are not stored: {told:?}"
        ));
    }
    if told.status != 200 || count(&told, "rejected") == 0 {
        run.breach(format!("{name}: {told:?}"));
    }
    run.figure(&format!("{name}_rejected"), count(&told, "rejected"));
    Ok(())
}

fn sound(run: &mut Run, setup: &Setup, place: &Place, megabytes: u64) -> anyhow::Result<()> {
    const ROWS: u64 = 10_000;
    place.ask("delete from large")?;
    let piece = rows(0, ROWS);
    let pieces = (megabytes * 1_000_000).div_ceil(piece.len() as u64);
    let bytes = HEADER.len() as u64 + pieces * piece.len() as u64;
    let all = std::iter::once(HEADER.as_bytes()).chain((0..pieces).map(|_| piece.as_bytes()));
    let told = post(setup.address, "large", "large-sound", bytes, all)?;
    let per_second = bytes as f64 / 1e6 / told.took.as_secs_f64();
    run.figure("sound_mb_per_s", rounded(per_second));
    let held = place.ask("select count(*), sum(id) from large")?;
    let expected = format!("{}|{}", pieces * ROWS, pieces * (ROWS * (ROWS - 1) / 2));
    run.figure("sound_rows", pieces * ROWS);
    if told.status != 200 || held.trim() != expected {
        run.breach(format!("a sound file: {held} of {expected}: {told:?}"));
    }
    Ok(())
}
