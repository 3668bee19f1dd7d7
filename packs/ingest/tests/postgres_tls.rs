//! TLS to a real PostgreSQL whose certificate is an authority's of the test's own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod loads;

use std::io::Write as _;
use std::sync::Arc;

use loads::{loader, people, run, runtime, target};
use offloop_ingest::load::LoadError;
use offloop_ingest::sink::SinkError;
use offloop_ingest::sink::postgres::{PostgresOutlet, PostgresSettings};
use tokio_postgres::NoTls;

#[expect(clippy::disallowed_methods, reason = "where tests find their server")]
fn variable(test: &str, name: &str) -> Option<String> {
    let said = std::env::var(name).ok();
    if said.is_none() {
        // Past the capture of the test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: set {name} to run it");
    }
    said
}

/// The server's port, and the file of its authority.
fn server(test: &str) -> Option<(String, u16, String)> {
    let url = variable(test, "OFFLOOP_TEST_POSTGRES")?;
    let authority = variable(test, "OFFLOOP_TEST_POSTGRES_CA")?;
    let config: tokio_postgres::Config = url.parse().unwrap();
    Some((url, config.get_ports()[0], authority))
}

async fn load(url: &str, schema: &str) -> Result<u64, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let target = target(&format!(
        "sink = \"postgres\"\ntable = \"{schema}.people\"\n\
         columns = [{{ name = \"id\", type = \"int4\", null = false }}, {{ name = \"name\", type = \"text\" }}]"
    ));
    let outlet = PostgresOutlet::new(&target, url, PostgresSettings::default());
    let loader = loader(folder.path(), &target, Arc::new(outlet?));
    let loaded = run(&loader, "one", &people(3_000, |_| false)).await;
    loaded
        .map(|summary| summary.rows_stored)
        .map_err(|failed| failed.error)
}

#[test]
fn a_certificate_is_checked_as_far_as_the_address_wants_it() {
    let name = "a_certificate_is_checked_as_far_as_the_address_wants_it";
    let Some((url, port, authority)) = server(name) else {
        return;
    };
    let other = tempfile::NamedTempFile::new().unwrap();
    runtime().block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let fresh = "SET client_min_messages = error; DROP SCHEMA IF EXISTS tls CASCADE; CREATE SCHEMA tls; CREATE TABLE tls.people (id int4, name text)";
        client.batch_execute(fresh).await.unwrap();
        let at = |host: &str, more: &str| format!("postgres://offloop@{host}:{port}/postgres?{more}");
        let ca = format!("sslrootcert={authority}");
        let good = [
            at("localhost", &format!("sslmode=verify-full&{ca}")),
            at("127.0.0.1", &format!("sslmode=verify-ca&{ca}")),
            at("127.0.0.1", "sslmode=require"),
            at("127.0.0.1", "sslmode=prefer"),
            format!("host=localhost port={port} user=offloop dbname=postgres sslmode=verify-full sslrootcert='{authority}'"),
        ];
        for url in good {
            client.batch_execute("DROP TABLE IF EXISTS tls.offloop_ingest_batches, tls.offloop_ingest_loads").await.unwrap();
            assert_eq!(load(&url, "tls").await.map_err(|error| panic!("{url}: {error:?}")), Ok(3_000));
        }
        let bad = [
            (at("127.0.0.1", &format!("sslmode=verify-full&{ca}")), "not valid for name"),
            (at("localhost", "sslmode=verify-full"), "UnknownIssuer"),
            (at("localhost", "sslmode=verify-ca"), "UnknownIssuer"),
            (at("localhost", "sslmode=verify-full&sslrootcert=/nowhere.pem"), "/nowhere.pem"),
            (at("localhost", &format!("sslmode=verify-full&sslrootcert={}", other.path().display())), "no certificate"),
            (at("localhost", "sslmode=nearly"), "sslmode is disable"),
        ];
        for (url, word) in bad {
            let error = load(&url, "tls").await.unwrap_err();
            assert!(matches!(&error, LoadError::Sink(SinkError::Place { .. })), "not tried again: {error:?}");
            assert!(error.to_string().contains(word), "{url}: {error}");
        }
    });
}

/// Somebody in between who has another certificate cannot hand the proof of the password on.
#[test]
fn a_password_is_proved_for_this_certificate_alone() {
    let name = "a_password_is_proved_for_this_certificate_alone";
    let Some((url, port, authority)) = server(name) else {
        return;
    };
    runtime().block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let fresh = "SET client_min_messages = error; DROP SCHEMA IF EXISTS bound CASCADE; DROP ROLE IF EXISTS bound; \
                     CREATE ROLE bound LOGIN PASSWORD 'no secret'; CREATE SCHEMA bound AUTHORIZATION bound; \
                     SET ROLE bound; CREATE TABLE bound.people (id int4, name text); RESET ROLE";
        client.batch_execute(fresh).await.unwrap();
        let at = |password: &str, more: &str| {
            format!("postgres://bound:{password}@localhost:{port}/postgres?{more}")
        };
        let bound = format!("sslmode=verify-full&sslrootcert={authority}&channel_binding=require");
        let loaded = load(&at("no%20secret", &bound), "bound").await;
        assert_eq!(loaded.map_err(|error| panic!("{error:?}")), Ok(3_000));
        let error = load(&at("guess", &bound), "bound").await.unwrap_err();
        assert!(error.to_string().contains("28P01"), "{error}");
        let error = load(&at("no%20secret", "sslmode=disable"), "bound").await.unwrap_err();
        assert!(error.to_string().contains("28000"), "{error}");
    });
}
