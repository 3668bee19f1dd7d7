//! What the tests of loads share.
#![allow(dead_code, reason = "each test takes its part")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use offloop_ingest::load::{
    Feed, Load, LoadAsk, LoadFailed, LoadId, Loader, Settings, Summary, feed,
};
use offloop_ingest::sink::Outlet;
use offloop_ingest::{RawTarget, Target};

pub(crate) fn target(declaration: &str) -> Target {
    let raw: RawTarget = toml::from_str(declaration).unwrap();
    raw.resolve("people").unwrap()
}

pub(crate) fn id(load: &str) -> LoadId {
    LoadId::parse(load).unwrap()
}

pub(crate) fn loader(folder: &Path, target: &Target, outlet: Arc<dyn Outlet>) -> Loader {
    Loader::new(Settings::new(folder), [(target.clone(), outlet)]).unwrap()
}

pub(crate) fn begin(loader: &Loader, load: &str) -> Load {
    let ask = LoadAsk {
        load: id(load),
        target: "people".into(),
        tenant: None,
        bytes_total: None,
    };
    loader.load(ask).unwrap()
}

/// Feeds all of `text` in pieces of `piece` bytes.
pub(crate) async fn pour(feed: Feed, text: Bytes, piece: usize) {
    let mut rest = text;
    while !rest.is_empty() {
        let part = rest.split_to(rest.len().min(piece));
        if feed.send(part).await.is_err() {
            return;
        }
    }
    let _ended = feed.end().await;
}

/// One whole load.
pub(crate) async fn run(loader: &Loader, load: &str, text: &str) -> Result<Summary, LoadFailed> {
    let (to, from) = feed();
    let pouring = tokio::spawn(pour(to, Bytes::copy_from_slice(text.as_bytes()), 1_000));
    let ended = begin(loader, load).run(from).await;
    pouring.await.unwrap();
    ended
}

/// Lines of the load's reject file as JSON; none if there is no file.
pub(crate) fn rejects(folder: &Path, load: &str) -> Vec<serde_json::Value> {
    let path = folder.join(format!("{load}.rejects.ndjson"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// `rows` rows `n,name of n`, where each row whose number `bad` picks has a word for a number.
pub(crate) fn people(rows: usize, bad: impl Fn(usize) -> bool) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("id,name\n");
    for row in 1..=rows {
        if bad(row) {
            writeln!(text, "word{row},\"bad, \"\"{row}\"\"\"").unwrap();
        } else {
            writeln!(text, "{row},\"name, \"\"{row}\"\"\"").unwrap();
        }
    }
    text
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}
