//! The door of loads: what a request says of its body, and what is told of loads.
//!
//! Must never: take a first byte of a body whose target, type or size cannot be.

use std::sync::Arc;

#[cfg(feature = "kafka")]
use offloop::http::PackMetrics;
use offloop::http::axum::Router;
use offloop::http::axum::extract::rejection::QueryRejection;
use offloop::http::axum::extract::{Path, Query, Request, State};
use offloop::http::axum::http::request::Parts;
use offloop::http::axum::http::{HeaderMap, HeaderName, StatusCode, header};
use offloop::http::axum::routing::{delete, get, post};
use offloop::http::{Closing, PackPage, PackRoutes, Refusal, mime, send_file};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::history::reject_file;
use super::interop::Client;
use super::source::Source;
use super::view::{self, Answer};
use super::{Open, Shared, direct, events, load_name, task, tenant_problem, upload};
use crate::decode::{Compression, Encoding};
use crate::load::{LoadAsk, LoadId, Phase};
use crate::target::Target;

/// Readers of events at a time.
const READERS_MAX: usize = 1_000;
const KEY_BYTES_MAX: usize = 256;
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;

#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    readers: Arc<Semaphore>,
}

impl Door {
    pub(super) fn open(&self) -> Result<&Open, Refusal> {
        let starting = || Refusal::unavailable("the server is starting");
        self.shared.open.get().ok_or_else(starting)
    }
}

pub(super) fn routes(shared: Arc<Shared>) -> PackRoutes {
    #[cfg(feature = "kafka")]
    let own = Arc::clone(&shared);
    let door = Door {
        shared,
        readers: Arc::new(Semaphore::new(READERS_MAX)),
    };
    let router = Router::new()
        .route("/v1/ingest/targets", get(targets))
        .route("/v1/ingest/consumers", get(consumers))
        .route("/v1/ingest/loads", get(loads))
        .route("/v1/ingest/loads/{load}", get(one))
        .route("/v1/ingest/loads/{load}/rejects", get(rejects))
        .route("/v1/ingest/loads/{load}/events", get(follow))
        .route(
            "/v1/ingest/uploads/{load}",
            get(upload::head)
                .patch(upload::patch)
                .merge(delete(upload::delete)),
        )
        .route("/v1/ingest/{target}", post(take).options(upload::options))
        .with_state(door);
    #[cfg(feature = "kafka")]
    let metrics = Some(PackMetrics(Arc::new(move |out| own.consumers.figures(out))));
    #[cfg(not(feature = "kafka"))]
    let metrics = None;
    PackRoutes {
        name: "ingest".into(),
        metrics,
        router,
        page: Some(PackPage {
            title: "Ingest",
            module: include_str!("page.js"),
        }),
        // The file is in the binary, and a test reads it.
        openapi: serde_json::from_str(include_str!("openapi.json")).ok(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeQuery {
    /// Name of the load: the same again goes on where it was cut.
    load: Option<String>,
    tenant: Option<String>,
}

/// One header, as text.
pub(super) fn text<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(Refusal::parameter(
            name.as_str(),
            "is given twice; give it once",
        ));
    }
    let no_text = |_| Refusal::parameter(name.as_str(), "is no plain text");
    first
        .to_str()
        .map(|text| Some(text.trim()))
        .map_err(no_text)
}

/// What is asked for, before any of its bytes is read.
pub(super) fn ask(
    door: &Door,
    open: &Open,
    target: &str,
    query: Result<Query<TakeQuery>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<LoadAsk, Refusal> {
    let Query(query) = query.map_err(|error| Refusal::parameter("query", error.body_text()))?;
    if let Some(problem) = query.tenant.as_deref().and_then(tenant_problem) {
        return Err(Refusal::parameter("tenant", problem));
    }
    let key = text(headers, &HeaderName::from_static("idempotency-key"))?;
    let load = match (query.load, key) {
        (Some(_), Some(_)) => {
            let detail = "is given beside Idempotency-Key; both name the load, keep one";
            return Err(Refusal::parameter("load", detail));
        }
        (Some(load), None) => Some(
            LoadId::parse(&load).map_err(|error| Refusal::parameter("load", error.to_string()))?,
        ),
        (None, Some(key)) => Some(of_key(target, query.tenant.as_deref(), key)?),
        (None, None) => door.shared.new_id(&open.server),
    };
    let length = text(headers, &header::CONTENT_LENGTH)?;
    let length: Option<u64> = length.and_then(|length| length.parse().ok());
    let most = door.shared.options.upload_bytes;
    if let Some(length) = length.filter(|length| *length > most) {
        let detail =
            format!("the body has {length} bytes; ingest.upload_limit is {most}: send it in parts");
        return Err(view::problem(view::TOO_LARGE, detail).into());
    }
    Ok(LoadAsk {
        load: load.ok_or_else(|| Refusal::unavailable("no name for the load could be made"))?,
        target: target.to_owned(),
        tenant: query.tenant,
        bytes_total: length,
    })
}

/// The load of an `Idempotency-Key`: the same request again is the same load.
fn of_key(target: &str, tenant: Option<&str>, key: &str) -> Result<LoadId, Refusal> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let detail = format!("give 1 to {KEY_BYTES_MAX} characters");
        return Err(Refusal::parameter("idempotency-key", detail));
    }
    let parts = [target, tenant.unwrap_or_default(), key].map(str::as_bytes);
    load_name("key", parts).map_err(|error| Refusal::unavailable(error.to_string()))
}

fn media(detail: impl Into<String>) -> Refusal {
    view::problem(view::MEDIA_TYPE, detail).into()
}

/// What is said of the file's type must be what the target is declared for.
fn check_type(target: &Target, kind: &str) -> Result<(), Refusal> {
    let format = target.format();
    let kind: mime::Mime = kind
        .parse()
        .map_err(|_| media("Content-Type cannot be read"))?;
    match kind.essence_str() {
        "text/csv" | "application/csv" if format.delimiter == b'\t' => {
            return Err(media(format!(
                "target `{}` is declared with tabs; send text/tab-separated-values",
                target.name()
            )));
        }
        "text/tab-separated-values" if format.delimiter != b'\t' => {
            return Err(media(format!(
                "target `{}` is declared with the delimiter {:?}; send text/csv, or declare delimiter = \"tab\"",
                target.name(),
                char::from(format.delimiter)
            )));
        }
        // What curl says of --data-binary where it is told nothing.
        "application/x-www-form-urlencoded"
        | "text/csv"
        | "application/csv"
        | "text/tab-separated-values"
        | "text/plain"
        | "application/octet-stream"
        // What browsers say of a .csv file where a spreadsheet program is installed.
        | "application/vnd.ms-excel"
        | "application/gzip"
        | "application/x-gzip"
        | "application/zstd" => {}
        other => {
            return Err(media(format!(
                "{other} is not taken; send text/csv, text/tab-separated-values, application/octet-stream or multipart/form-data"
            )));
        }
    }
    match kind.get_param(mime::CHARSET) {
        Some(charset) => check_charset(format.encoding, charset.as_str()),
        None => Ok(()),
    }
}

/// The same for how the body is packed.
fn check_coding(target: &Target, headers: &HeaderMap, is_form: bool) -> Result<(), Refusal> {
    let format = target.format();
    let packed = match text(headers, &header::CONTENT_ENCODING)? {
        None | Some("identity") => return Ok(()),
        Some(_) if is_form => {
            return Err(media(
                "a form is sent unpacked; its file may be gzip or zstd",
            ));
        }
        Some("gzip" | "x-gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            return Err(media(format!(
                "Content-Encoding {shown:?}; gzip, zstd or none"
            )));
        }
    };
    if format.compression != Compression::Auto && format.compression != packed {
        return Err(media(format!(
            "target `{}` is declared with another compression than Content-Encoding says; declare \"auto\"",
            target.name()
        )));
    }
    Ok(())
}

fn check_charset(declared: Encoding, charset: &str) -> Result<(), Refusal> {
    let charset = charset.to_ascii_lowercase();
    let fits = match declared {
        Encoding::Utf8 => matches!(&*charset, "utf-8" | "utf8" | "us-ascii"),
        Encoding::Latin1 => matches!(&*charset, "iso-8859-1" | "latin1" | "us-ascii"),
        Encoding::Windows1252 => matches!(&*charset, "windows-1252" | "cp1252" | "us-ascii"),
        Encoding::Utf16 => charset.starts_with("utf-16"),
        Encoding::Utf16Le => charset == "utf-16le",
        Encoding::Utf16Be => charset == "utf-16be",
    };
    if fits {
        return Ok(());
    }
    let shown: String = charset.chars().take(40).collect();
    let declared = serde_json::to_value(declared).unwrap_or_default();
    Err(media(format!(
        "charset {shown:?}; the target is declared for {declared}: send that, or declare another `encoding`"
    )))
}

async fn take(
    State(door): State<Door>,
    Path(target): Path<String>,
    query: Result<Query<TakeQuery>, QueryRejection>,
    request: Request,
) -> Answer {
    let in_parts = request.headers().contains_key(upload::COMPLETE);
    let taken = taken(&door, &target, query, request).await;
    upload::refusing(&door.shared, in_parts, taken)
}

async fn taken(
    door: &Door,
    target: &str,
    query: Result<Query<TakeQuery>, QueryRejection>,
    request: Request,
) -> Answer {
    let open = door.open()?;
    let (mut parts, body) = request.into_parts();
    let ask = ask(door, open, target, query, &parts.headers)?;
    let Some(declared) = open.loader.target(target) else {
        let known: Vec<_> = open.loader.targets().map(Target::name).collect();
        let shown: String = target.chars().take(63).collect();
        let detail = format!(
            "there is no target {shown:?}; declared are: {}",
            known.join(", ")
        );
        return Err(Refusal::not_found(detail));
    };
    let mut source = Source::new(body, &parts.headers, &door.shared.options)?;
    check_coding(declared, &parts.headers, source.is_form())?;
    let asked = upload::asked(&parts.headers, source.is_form())?;
    let of_form = source.head().await?;
    let kind = match &of_form {
        Some(head) => head.content_type.as_deref(),
        None => text(&parts.headers, &header::CONTENT_TYPE)?,
    };
    if let Some(kind) = kind {
        check_type(declared, kind)?;
    }
    let client = Client::of(&mut parts);
    match asked {
        Some(asked) => upload::create(&door.shared, ask, asked, source, client).await,
        None => direct::direct(&door.shared, open, ask, source, client.under_way).await,
    }
}

/// Those of this process.
async fn consumers(State(door): State<Door>) -> Answer {
    let open = door.open()?;
    #[cfg(feature = "kafka")]
    let all = door.shared.consumers.views(&open.server).await;
    #[cfg(not(feature = "kafka"))]
    let (all, _): ([Value; 0], _) = ([], open);
    Ok(view::answer(StatusCode::OK, &json!({ "consumers": all })))
}

async fn targets(State(door): State<Door>) -> Answer {
    let open = door.open()?;
    let targets: Vec<_> = open.loader.targets().map(view::target_view).collect();
    Ok(view::answer(StatusCode::OK, &json!({ "targets": targets })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadsQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Those that run, then those that have ended, the latest first.
async fn loads(
    State(door): State<Door>,
    query: Result<Query<LoadsQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|error| Refusal::parameter("query", error.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Refusal::parameter("limit", format!("give 1 to {PAGE_MAX}")));
    }
    let cursor = query.cursor.as_deref().map(LoadId::parse).transpose();
    let cursor = cursor.map_err(|error| Refusal::parameter("cursor", error.to_string()))?;
    let open = door.open()?;
    let mut loads: Vec<Value> = Vec::new();
    if cursor.is_none() {
        let all = open.loader.statuses();
        let running = all.iter();
        let running =
            running.filter(|status| matches!(status.phase, Phase::Starting | Phase::Running));
        loads.extend(running.map(view::status_view));
    }
    let ended = door.shared.history.list(cursor.as_ref(), limit);
    let next = (ended.len() == limit).then(|| ended.last().map(|entry| entry.load.clone()));
    loads.extend(ended.into_iter().map(|entry| entry.view));
    let body = json!({ "loads": loads, "next_cursor": next.flatten() });
    Ok(view::answer(StatusCode::OK, &body))
}

fn load_id(text: &str) -> Result<LoadId, Refusal> {
    LoadId::parse(text).map_err(|error| Refusal::not_found(error.to_string()))
}

fn unknown(load: &LoadId) -> Refusal {
    Refusal::not_found(format!(
        "load {load} is not here: it never was, or it was pruned"
    ))
}

fn find(door: &Door, load: &LoadId) -> Result<Value, Refusal> {
    let status = door.open()?.loader.status(load);
    let runs = status.filter(|status| matches!(status.phase, Phase::Starting | Phase::Running));
    let found = runs.as_ref().map(view::status_view);
    let found = found.or_else(|| door.shared.history.get(load));
    found.ok_or_else(|| unknown(load))
}

async fn one(State(door): State<Door>, Path(load): Path<String>) -> Answer {
    let mut view = find(&door, &load_id(&load)?)?;
    if view["state"] == "waiting" {
        task::told_by_job(door.open()?, &mut view).await;
    }
    Ok(view::answer(StatusCode::OK, &view))
}

async fn rejects(State(door): State<Door>, Path(load): Path<String>, parts: Parts) -> Answer {
    let load = load_id(&load)?;
    find(&door, &load)?;
    let path = reject_file(&door.shared.rejects, &load);
    let kind: mime::Mime = "application/x-ndjson".parse().unwrap_or(mime::TEXT_PLAIN);
    send_file(&path, &kind, parts, "no row of this load was refused").await
}

async fn follow(State(door): State<Door>, Path(load): Path<String>, parts: Parts) -> Answer {
    let load = load_id(&load)?;
    let open = door.open()?;
    if open.loader.status(&load).is_none() {
        return Err(unknown(&load));
    }
    let closing = parts.extensions.get::<Closing>().cloned();
    let place = Arc::clone(&door.readers).try_acquire_owned().map_err(|_| {
        let detail = format!("{READERS_MAX} readers of loads' events, the limit");
        Refusal::from(view::problem(view::TOO_MANY, detail))
    })?;
    Ok(events::stream(&open.loader, load, closing, place))
}
