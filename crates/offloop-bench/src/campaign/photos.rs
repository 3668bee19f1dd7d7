//! The photo library as a client sees it: scans, rows, thumbnails.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::http::Client;
use super::oracle::ask;

/// Asks for a scan; whether it was taken.
pub(crate) fn scan(client: &mut Client, folder: &Path) -> bool {
    let body = json!({ "path": folder });
    client
        .post("/v1/photos/scan", &body)
        .is_ok_and(|answer| answer.status == 202)
}

/// Scans until a scan has come through and no row is open. Returns the final status.
pub(crate) fn settle(client: &mut Client, folder: &Path, limit: Duration) -> anyhow::Result<Value> {
    let began = Instant::now();
    // One that was under way does not see what changed behind it: the second one does.
    for _ in 0..2 {
        if !scan(client, folder) {
            bail!("the scan was refused");
        }
        loop {
            let status = ask(client, "/v1/photos/status")?.json();
            let open = ["PENDING_CONVERSION", "CONVERTING"];
            let open: u64 = open
                .iter()
                .filter_map(|name| status["counts"][name].as_u64())
                .sum();
            match status["scan"]["state"].as_str() {
                Some("completed") if open == 0 => break,
                Some("failed" | "cancelled") => bail!("the scan failed: {status}"),
                _ if began.elapsed() > limit => bail!("not settled after {limit:?}: {status}"),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
    Ok(ask(client, "/v1/photos/status")?.json())
}

/// All rows.
pub(crate) fn rows(client: &mut Client) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = ask(client, &format!("/v1/photos?limit=500{cursor}"))?.json();
        rows.extend(page["photos"].as_array().into_iter().flatten().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(rows),
        }
    }
}

/// What does not agree: rows that are not at an end, converted ones without thumbnails.
pub(crate) fn disagreements(client: &mut Client, rows: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for row in rows {
        let path = row["path"].as_str().unwrap_or_default();
        match row["status"].as_str() {
            Some("DONE") => {
                let id = row["id"].as_str().unwrap_or_default();
                for size in [160, 500] {
                    let answer = client.get(&format!("/v1/photos/{id}/thumbnail?size={size}"));
                    let good = answer
                        .is_ok_and(|a| a.status == 200 && a.body.starts_with(b"\xff\xd8\xff"));
                    if !good {
                        found.push(format!("{path} is DONE and has no thumbnail of {size}"));
                    }
                }
            }
            Some("FAILED") if row["class"].is_string() && row["message"].is_string() => {}
            other => found.push(format!("{path} is {}", other.unwrap_or("nothing"))),
        }
    }
    found
}
