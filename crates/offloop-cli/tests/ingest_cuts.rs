//! Uploads that are cut, that are not what their sender has, or whose server is killed: nothing of them is
//! stored, their space comes back, and sent again each row is stored once. The small form of the campaign
//! `l3`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use serde_json::Value;

mod support;

use support::imports::{ids, people_target, until};
use support::serve;

const ROWS: u64 = 1_000;
/// For repeats: each place of a cut comes from here.
const SEED: u64 = 0x1d5e_ed0f_c0ff_ee00;

fn body(upload: u64) -> String {
    let mut text = String::from("id,name\n");
    for row in 1..=ROWS {
        writeln!(text, "{},name {row}", upload * 10_000 + row).unwrap();
    }
    text
}

fn spooled(folder: &Path) -> usize {
    let spool = folder.join("offloop-data/ingest/spool");
    std::fs::read_dir(spool).unwrap().count()
}

fn post(url: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.post(url).header("prefer", "respond-async");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = request.send(body).unwrap();
    let status = answer.status().as_u16();
    (status, answer.body_mut().read_json().unwrap_or_default())
}

#[test]
fn nothing_of_a_body_that_did_not_come_whole_is_stored_or_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = format!("[ingest]\nspool_limit = \"256KiB\"\n{}", people_target(""));
    std::fs::write(folder.join("offloop.toml"), config).unwrap();
    let mut server = serve(folder);
    let mut dice = SEED;
    for upload in 0..24 {
        let text = body(upload);
        let url = format!("{}/v1/ingest/people?load=cut-{upload}", server.url);
        if upload % 4 == 1 {
            let wrong = format!("sha-256=:{}=:", "A".repeat(43));
            let (status, problem) = post(&url, &[("content-digest", &wrong)], &text);
            assert_eq!(status, 400, "{problem}");
        } else {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let cut = (dice >> 33) as usize % text.len();
            let host = server.url.strip_prefix("http://").unwrap().to_owned();
            let mut socket = TcpStream::connect(&host).unwrap();
            let head = format!(
                "POST /v1/ingest/people?load=cut-{upload} HTTP/1.1\r\nHost: {host}\r\nPrefer: respond-async\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            socket.write_all(head.as_bytes()).unwrap();
            socket.write_all(&text.as_bytes()[..cut]).unwrap();
            until("a body is on its way", || spooled(folder) > 0);
            if upload % 8 == 7 {
                server.kill();
                server = serve(folder);
            } else {
                socket.shutdown(Shutdown::Both).unwrap();
            }
        }
        until("its space is back", || spooled(folder) == 0);
        let mine = upload * 10_000..(upload + 1) * 10_000;
        let seen = ids(folder).into_iter().any(|id| mine.contains(&id));
        assert!(!seen, "rows of upload {upload}, which did not come");
        let url = format!("{}/v1/ingest/people?load=cut-{upload}", server.url);
        let (status, answer) = post(&url, &[], &text);
        assert_eq!(status, 202, "upload {upload}: {answer}");
        until("its space is back", || spooled(folder) == 0);
    }
    let mut ids = ids(folder);
    ids.sort_unstable();
    let all = (0..24).flat_map(|upload| (1..=ROWS).map(move |row| upload * 10_000 + row));
    assert!(ids.into_iter().eq(all), "a row is missing, or there twice");
}
