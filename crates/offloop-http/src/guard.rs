//! What no request may get past, whatever its route: a wrong host, another site's page.

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, header};

use crate::config::DoorConfig;
use crate::problem::{Kind, Refusal};

/// The host that the caller believes to talk to.
fn host(parts: &Parts) -> Option<&str> {
    let by_uri = parts.uri.authority().map(Authority::as_str);
    by_uri.or_else(|| {
        parts
            .headers
            .get(header::HOST)
            .and_then(|value| value.to_str().ok())
    })
}

/// Without its port.
fn name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// DNS rebinding: a page of another site, whose name was made to lead here, is told apart by the
/// `Host` that it cannot change. With a token this is not needed: the page does not have it.
pub(crate) fn check_host(config: &DoorConfig, parts: &Parts) -> Result<(), Refusal> {
    if config.token.is_some() {
        return Ok(());
    }
    let Some(host) = host(parts) else {
        return Err(Kind::WrongHost.say("the request has no Host header").into());
    };
    let name = name(host);
    let known = ["localhost", "127.0.0.1", "[::1]"].contains(&name)
        || name == config.listen.ip().to_string()
        || config
            .hosts
            .iter()
            .any(|host| host.eq_ignore_ascii_case(name))
        || name.eq_ignore_ascii_case("localhost");
    if known {
        return Ok(());
    }
    let name = &name[..name.floor_char_boundary(128)];
    Err(Kind::WrongHost.say(format!(
        "{name:?} is not a name of this server; use localhost, set a token, or add the name to `hosts`"
    )).into())
}

/// Cross-site requests of browsers (Fetch Metadata; Go's `CrossOriginProtection` has the same
/// rules). Callers that are no browsers send neither header.
pub(crate) fn check_site(parts: &Parts) -> Result<(), Refusal> {
    if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let text = |headers: &HeaderMap, name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or("?").to_owned())
    };
    let what = match text(&parts.headers, "sec-fetch-site") {
        Some(site) if site == "same-origin" || site == "none" => return Ok(()),
        Some(site) => format!("Sec-Fetch-Site is {site:?}"),
        None => match text(&parts.headers, "origin") {
            None => return Ok(()),
            Some(origin) => {
                let from = origin.split_once("://").map(|(_, authority)| authority);
                if from.is_some() && from == host(parts) {
                    return Ok(());
                }
                format!("Origin is {:?}", &origin[..origin.floor_char_boundary(128)])
            }
        },
    };
    Err(Kind::CrossSite
        .say(format!(
            "{what}; only the dashboard's own pages may change things"
        ))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/v1/jobs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_rebound_name_is_refused_while_there_is_no_token() {
        let mut config = DoorConfig::new(([127, 0, 0, 1], 7878).into());
        config.hosts = vec!["jobs.internal".into()];
        let rows = [
            ("localhost", true),
            ("localhost:7878", true),
            ("LOCALHOST:7878", true),
            ("127.0.0.1:7878", true),
            ("[::1]:7878", true),
            ("[::1]", true),
            ("jobs.internal:80", true),
            ("evil.example", false),
            ("evil.example:7878", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:7878", false),
            ("127.0.0.2", false),
            ("", false),
        ];
        for (host, want) in rows {
            let found = check_host(&config, &parts("GET", &[("host", host)]));
            assert_eq!(found.is_ok(), want, "{host:?}");
        }
        assert!(check_host(&config, &parts("GET", &[])).is_err());
        config.token = Some("a token that is long".into());
        assert!(check_host(&config, &parts("GET", &[("host", "evil.example")])).is_ok());
    }

    #[test]
    fn another_sites_page_changes_nothing() {
        let host = ("host", "localhost:7878");
        let rows: [Row<'_>; 11] = [
            ("POST", &[host], true),
            ("POST", &[host, ("sec-fetch-site", "same-origin")], true),
            ("POST", &[host, ("sec-fetch-site", "none")], true),
            ("POST", &[host, ("sec-fetch-site", "same-site")], false),
            ("DELETE", &[host, ("sec-fetch-site", "cross-site")], false),
            (
                "POST",
                &[
                    host,
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://localhost:7878"),
                ],
                false,
            ),
            ("POST", &[host, ("origin", "http://localhost:7878")], true),
            ("POST", &[host, ("origin", "http://localhost:1")], false),
            ("POST", &[host, ("origin", "null")], false),
            ("PUT", &[host, ("origin", "https://evil.example")], false),
            ("GET", &[host, ("sec-fetch-site", "cross-site")], true),
        ];
        for (method, headers, want) in rows {
            assert_eq!(
                check_site(&parts(method, headers)).is_ok(),
                want,
                "{method} {headers:?}"
            );
        }
    }
}
