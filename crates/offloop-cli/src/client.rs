//! Talks to a running server over HTTP, for commands.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::config;

/// Where the server is, and how to be let in.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Address of the server [env: OFFLOOP_SERVER] [default: http://127.0.0.1:7878]
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,
    /// Its token, if it needs one [env: OFFLOOP_TOKEN]
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// Print the server's answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl ServerArgs {
    /// By `--server`, not by the environment or the default.
    pub(crate) const fn is_named(&self) -> bool {
        self.server.is_some()
    }
}

const SERVER_DEFAULT: &str = "http://127.0.0.1:7878";
/// A long wait for a result, and the way there and back.
const CALL_MAX: Duration = Duration::from_secs(75);

#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

#[derive(Clone, Copy)]
pub(crate) enum Method {
    Get,
    Post,
}

/// What the server said.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.text).context("the server's answer is not JSON")
    }

    /// The answer of a call that worked; else the server's own sentence as the error.
    pub(crate) fn ok(self) -> anyhow::Result<Value> {
        if (200..300).contains(&self.status) {
            if self.text.is_empty() {
                return Ok(Value::Null);
            }
            return self.json();
        }
        let problem = self.json().unwrap_or_default();
        let text = |key: &str| problem[key].as_str().map(str::to_owned);
        match text("detail").or_else(|| text("title")) {
            Some(detail) => bail!("{detail} ({})", self.status),
            None => bail!("the server answered {}", self.status),
        }
    }
}

impl Client {
    pub(crate) fn new(args: &ServerArgs) -> Self {
        let base = args
            .server
            .clone()
            .or_else(|| config::from_environment("SERVER"));
        let base = base.unwrap_or_else(|| SERVER_DEFAULT.into());
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(CALL_MAX))
            .build();
        Self {
            agent: settings.into(),
            base: base.trim_end_matches('/').to_owned(),
            token: args
                .token
                .clone()
                .or_else(|| config::from_environment("TOKEN")),
        }
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Answer> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.answer(request.call())
    }

    pub(crate) fn post(
        &self,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_empty() {
            return self.answer(request.send_empty());
        }
        self.answer(
            request
                .header("content-type", "application/json")
                .send(body),
        )
    }

    pub(crate) fn put(&self, path: &str, body: &str) -> anyhow::Result<Answer> {
        let mut request = self.agent.put(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.answer(
            request
                .header("content-type", "application/json")
                .send(body),
        )
    }

    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        let mut request = self.agent.delete(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.answer(request.call())
    }

    /// An answer that comes line by line for as long as it takes; an error of the server's own instead
    /// if it was refused.
    pub(crate) fn lines(
        &self,
        method: Method,
        path: &str,
    ) -> anyhow::Result<impl Iterator<Item = std::io::Result<String>> + use<>> {
        let path = format!("{}{path}", self.base);
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let answer = match method {
            Method::Get => {
                let mut request = self.agent.get(path).config().timeout_global(None).build();
                if let Some(bearer) = bearer {
                    request = request.header("authorization", bearer);
                }
                request.call()
            }
            Method::Post => {
                let mut request = self.agent.post(path).config().timeout_global(None).build();
                if let Some(bearer) = bearer {
                    request = request.header("authorization", bearer);
                }
                request.send_empty()
            }
        };
        let mut answer = answer.with_context(|| self.no_answer())?;
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            let text = answer.body_mut().read_to_string();
            let text = text.context("the answer broke off")?;
            Answer { status, text }.ok()?;
        }
        Ok(BufReader::new(answer.into_body().into_reader()).lines())
    }

    /// A body of any length, for as long as it takes.
    pub(crate) fn upload(
        &self,
        path: &str,
        body: impl Read + 'static,
        bytes: Option<u64>,
    ) -> anyhow::Result<Answer> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let mut request = request.config().timeout_global(None).build();
        request = request.header("content-type", "application/octet-stream");
        if let Some(bytes) = bytes {
            request = request.header("content-length", bytes.to_string());
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.answer(request.send(ureq::SendBody::from_owned_reader(body)))
    }

    /// An answer of any length, as it comes.
    pub(crate) fn download(&self, path: &str, to: &mut impl Write) -> anyhow::Result<u64> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let mut request = request.config().timeout_global(None).build();
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = request.call().with_context(|| self.no_answer())?;
        if !answer.status().is_success() {
            bail!("the server answered {}", answer.status());
        }
        std::io::copy(&mut answer.into_body().into_reader(), to).context("the answer broke off")
    }

    fn no_answer(&self) -> String {
        format!(
            "no answer from {}; is the server running? Start it with `offloop serve`, or name it by --server",
            self.base
        )
    }

    fn answer(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Answer> {
        let mut answer = answer.with_context(|| self.no_answer())?;
        let status = answer.status().as_u16();
        let text = answer
            .body_mut()
            .read_to_string()
            .context("the answer broke off")?;
        Ok(Answer { status, text })
    }
}

/// A value for a path or a query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
