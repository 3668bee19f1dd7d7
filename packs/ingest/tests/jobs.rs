//! Rows as jobs of a real server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod loads;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use loads::{begin, loader, people, run, runtime, target};
use offloop::{Builder, JobOptions, Server, TaskOutput};
use offloop_ingest::load::{Loader, feed};
use offloop_ingest::sink::jobs::JobsOutlet;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// A server whose task hands its payloads to the test.
fn server(data: &Path) -> (Server, Receiver<Value>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let server = Builder::embedded(data)
        .cpu_task("take", move |context| {
            let row: Value = offloop::payload(context)?;
            tell.lock().unwrap().send(row).unwrap();
            Ok(TaskOutput::none())
        })
        .unwrap()
        .start()
        .unwrap();
    (server, told)
}

fn open(folder: &Path, server: &Server, more: &str) -> Loader {
    let target = target(&format!(
        "sink = \"jobs\"\ntask = \"take\"\n{more}\nbatch = {{ rows = 100, time = \"10s\" }}\n\
         columns = [{{ name = \"id\", type = \"int4\" }}, {{ name = \"name\", type = \"text\" }}]"
    ));
    let outlet = JobsOutlet::new(&target, server.handle().clone(), JobOptions::default()).unwrap();
    loader(folder, &target, Arc::new(outlet))
}

#[test]
fn each_row_is_one_job_though_the_upload_is_cut_and_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (server, told) = server(&folder.path().join("data"));
    let text = people(450, |row| row == 77);
    runtime().block_on(async {
        let cut_short = open(folder.path(), &server, "");
        let (to, from) = feed();
        let feeding = async {
            let part = Bytes::copy_from_slice(&text.as_bytes()[..5_000]);
            to.send(part).await.unwrap();
            to.cut("the test").await;
        };
        let (ended, ()) = tokio::join!(begin(&cut_short, "one").run(from), feeding);
        assert!(ended.unwrap_err().summary.rows_stored > 100);
        let loader = open(folder.path(), &server, "");
        let summary = run(&loader, "one", &text).await.unwrap();
        assert!(summary.resumed_at > 0);
        assert_eq!((summary.rows_stored, summary.rows_rejected), (449, 1));
        assert!(run(&loader, "one", &text).await.unwrap().was_stored);
    });
    let mut seen = BTreeMap::<i64, u32>::new();
    for _ in 0..449 {
        let row = told.recv_timeout(SOON).unwrap();
        let id = row["id"].as_i64().unwrap();
        assert_eq!(row["name"], format!("name, \"{id}\""));
        *seen.entry(id).or_default() += 1;
    }
    let wanted: Vec<_> = (1..=450).filter(|id| *id != 77).collect();
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), wanted);
    assert!(told.try_recv().is_err(), "a row has two jobs");
}

#[test]
fn a_batch_is_one_job_and_no_row_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (server, told) = server(&folder.path().join("data"));
    let text = people(250, |_| false);
    let loader = open(folder.path(), &server, "per = \"batch\"");
    runtime().block_on(run(&loader, "one", &text)).unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let rows = told.recv_timeout(SOON).unwrap();
        let id = |row: &Value| row["id"].as_i64().unwrap();
        ids.extend(rows.as_array().unwrap().iter().map(id));
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=250).collect::<Vec<_>>());
}
