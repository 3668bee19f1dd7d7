//! TLS and logins to a real broker whose certificate is an authority's of the test's own.
#![cfg(feature = "kafka-tls")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod loads;
mod topics;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use loads::{loader, people, run, runtime, target};
use offloop_ingest::load::LoadError;
use offloop_ingest::sink::SinkError;
use offloop_ingest::sink::kafka::{KafkaOutlet, RawKafka};
use topics::{all, broker, fresh_name, said};

const PASSWORD: &str = "loads and no more";
const ROWS: u64 = 3_000;

/// Where one broker listens.
struct Doors {
    plain: String,
    /// TLS, and a user's password.
    login: String,
    /// TLS, and a client's certificate.
    certified: String,
    /// Certificates and their keys.
    tls: PathBuf,
}

impl Doors {
    fn of(test: &str) -> Option<Self> {
        Some(Self {
            plain: broker(test)?,
            login: said(test, "OFFLOOP_TEST_KAFKA_LOGIN")?,
            certified: said(test, "OFFLOOP_TEST_KAFKA_CERTIFIED")?,
            tls: said(test, "OFFLOOP_TEST_KAFKA_TLS")?.into(),
        })
    }

    /// Loads `ROWS` rows; the topic's name. `more`: what the declaration says beside the brokers.
    async fn load(
        &self,
        brokers: &str,
        more: &str,
        password: Option<&str>,
    ) -> Result<String, LoadError> {
        let raw: RawKafka = toml::from_str(&format!("brokers = \"{brokers}\"\n{more}")).unwrap();
        let settings = raw.resolve(&self.tls, password).unwrap();
        let (folder, topic) = (tempfile::tempdir().unwrap(), fresh_name("tls"));
        let target = target(&format!(
            "sink = \"kafka\"\ntopic = \"{topic}\"\nkey = \"id\"\nkafka = {{ create = {{ partitions = 2 }} }}\n\
             columns = [{{ name = \"id\", type = \"int4\" }}, {{ name = \"name\", type = \"text\" }}]"
        ));
        let outlet = KafkaOutlet::new(&target, &settings, folder.path().join("notes")).unwrap();
        let loader = loader(&folder.path().join("rejects"), &target, Arc::new(outlet));
        let loaded = run(&loader, "one", &people(ROWS as usize, |_| false)).await;
        loaded.map(|_| topic).map_err(|failed| failed.error)
    }

    /// Every row is in the topic; asked at the broker's plain door.
    fn is_whole(&self, topic: &str) {
        let received = all(&self.plain, topic);
        let rows: BTreeSet<_> = received.iter().map(topics::Received::row).collect();
        assert_eq!((received.len() as u64, rows.len() as u64), (ROWS, ROWS));
    }
}

fn login(mechanism: &str) -> String {
    format!(
        "tls = true\nca_file = \"ca.pem\"\nuser = \"loader\"\npassword_env = \"SECRET\"\nmechanism = \"{mechanism}\""
    )
}

const CERTIFIED: &str = "tls = true\nca_file = \"ca.pem\"\ncertificate_file = \"client.pem\"\nkey_file = \"client.key\"";

#[test]
fn rows_go_through_tls_for_who_has_a_password_or_a_certificate() {
    let Some(doors) = Doors::of("rows_go_through_tls_for_who_has_a_password_or_a_certificate")
    else {
        return;
    };
    runtime().block_on(async {
        for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
            let login = login(mechanism);
            let loaded = doors.load(&doors.login, &login, Some(PASSWORD));
            doors.is_whole(&loaded.await.unwrap());
        }
        let loaded = doors.load(&doors.certified, CERTIFIED, None);
        doors.is_whole(&loaded.await.unwrap());
    });
}

#[test]
fn who_is_not_let_in_is_told_why_and_what_to_look_at() {
    let Some(doors) = Doors::of("who_is_not_let_in_is_told_why_and_what_to_look_at") else {
        return;
    };
    let login = login("SCRAM-SHA-512");
    let of_the_system = login.replace("ca_file = \"ca.pem\"\n", "");
    let by_address = doors.login.replace("localhost", "127.0.0.1");
    let tls = "tls = true\nca_file = \"ca.pem\"";
    let table: [(&str, &str, Option<&str>, &[&str]); 7] = [
        (
            &doors.login,
            &login,
            Some("guessed"),
            &["Authentication failed", "see user, password"],
        ),
        (
            &doors.login,
            &of_the_system,
            Some(PASSWORD),
            &["certificate verify failed", "ca_file"],
        ),
        (
            &by_address,
            &login,
            Some(PASSWORD),
            &["certificate verify failed", "127.0.0.1"],
        ),
        (&doors.login, tls, None, &["no broker has answered", "user"]),
        (
            &doors.certified,
            tls,
            None,
            &["alert bad certificate", "certificate_file"],
        ),
        (&doors.plain, tls, None, &["SSL", "see tls"]),
        (&doors.login, "", None, &["no broker has answered", "tls"]),
    ];
    // At once: two of them are only known by their silence.
    let tried = table.map(|(brokers, more, password, words)| {
        let load = doors.load(brokers, more, password);
        async move { (load.await.unwrap_err(), words) }
    });
    for (refused, words) in runtime().block_on(join_all(tried)) {
        assert!(
            matches!(refused, LoadError::Sink(SinkError::Unreachable { .. })),
            "{refused:?}"
        );
        let told = told(&refused);
        for word in words {
            assert!(told.contains(word), "{word} is missing: {told}");
        }
        assert!(!told.contains(PASSWORD), "{told}");
    }
}

fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}
