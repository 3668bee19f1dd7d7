//! What uploads in parts are told while they come: 104 (Upload Resumption Supported) of
//! draft-ietf-httpbis-resumable-upload-13.
//!
//! Must never: tell a client that did not ask by a version that is spoken here, tell an offset that is not on
//! disk, or one that may go back.

use std::sync::Arc;

use offloop::http::axum::http::request::Parts;
use offloop::http::axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use offloop::http::{Interim, UnderWay};

use super::digest;
use super::spool::{Part, SpoolError};
use super::upload::OFFSET;
use crate::load::LoadId;

pub(super) const VERSION: HeaderName = HeaderName::from_static("upload-draft-interop-version");
/// Of draft 13.
pub(super) const CURRENT: HeaderValue = HeaderValue::from_static("10");
/// That, and 9 of draft 12, whose clients ask for nothing else of a server.
const SPOKEN: [&str; 2] = ["10", "9"];
/// Bytes from one offset that is told to the next: each is flushed for it.
const TELL_EVERY: u64 = 16 << 20;

/// The request's way back while its body comes.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) under_way: Option<UnderWay>,
    asked: Option<Asked>,
}

/// It wants to be told.
#[derive(Debug)]
struct Asked {
    interim: Arc<Interim>,
    /// The version that it speaks.
    version: HeaderValue,
    /// What a request brings may be dropped again at its end, as its digest says.
    may_shrink: bool,
    told: u64,
}

impl Client {
    pub(super) fn of(parts: &mut Parts) -> Self {
        let under_way = parts.extensions.remove::<UnderWay>();
        let interim = parts.extensions.remove::<Arc<Interim>>();
        let version = parts.headers.get(&VERSION).cloned();
        let version = version.filter(|version| {
            let version = version.to_str().unwrap_or_default().trim();
            SPOKEN.contains(&version)
        });
        let asked = interim.zip(version).map(|(interim, version)| Asked {
            interim,
            version,
            may_shrink: parts.headers.contains_key(&digest::CONTENT),
            told: 0,
        });
        Self { under_way, asked }
    }

    /// The upload has its place. `headers`: its limits.
    pub(super) async fn created(&self, load: &LoadId, mut headers: HeaderMap) {
        let Some(asked) = &self.asked else {
            return;
        };
        if let Ok(path) = HeaderValue::from_str(&path(load)) {
            headers.insert(header::LOCATION, path);
            asked.tell(headers).await;
        }
    }

    /// A part begins at this offset.
    pub(super) const fn begins(&mut self, offset: u64) {
        if let Some(asked) = &mut self.asked {
            asked.told = offset;
        }
    }

    /// The part has grown.
    pub(super) async fn grown(&mut self, part: &Part) -> Result<(), SpoolError> {
        if let Some(under_way) = &self.under_way {
            under_way.tell();
        }
        let offset = part.offset;
        let Some(asked) = &mut self.asked else {
            return Ok(());
        };
        if asked.may_shrink || offset - asked.told < TELL_EVERY {
            return Ok(());
        }
        part.flush().await?;
        asked.told = offset;
        let headers = HeaderMap::from_iter([(OFFSET, HeaderValue::from(offset))]);
        asked.tell(headers).await;
        Ok(())
    }
}

impl Asked {
    async fn tell(&self, mut headers: HeaderMap) {
        headers.insert(VERSION, self.version.clone());
        if let Ok(status) = StatusCode::from_u16(104) {
            let reason = "Upload Resumption Supported";
            self.interim.send(status, reason, &headers).await;
        }
    }
}

/// Where an upload is gone on with.
pub(super) fn path(load: &LoadId) -> String {
    format!("/v1/ingest/uploads/{load}")
}
