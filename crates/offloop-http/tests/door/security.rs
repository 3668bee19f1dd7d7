//! Who gets in, and what every answer carries.

use offloop_http::{Door, DoorConfig, DoorError};

use crate::support::Server;

const TOKEN: &str = "a token that nobody guesses";

async fn guarded() -> Server {
    Server::with(|config| config.token = Some(TOKEN.into())).await
}

#[tokio::test]
async fn a_door_that_strangers_reach_needs_a_token() {
    let open = DoorConfig::new(([0, 0, 0, 0], 0).into());
    let refused = Door::listen(&open).await;
    assert!(
        matches!(refused, Err(DoorError::NeedsToken { .. })),
        "{refused:?}"
    );
    let remedies = refused.unwrap_err().to_string();
    assert!(
        remedies.contains("OFFLOOP_TOKEN") && remedies.contains("127.0.0.1"),
        "{remedies}"
    );
    let short = DoorConfig {
        token: Some("short".into()),
        ..open.clone()
    };
    assert!(matches!(
        Door::listen(&short).await,
        Err(DoorError::TokenTooShort { len: 5 })
    ));
    let long = DoorConfig {
        token: Some(TOKEN.into()),
        ..open.clone()
    };
    assert!(Door::listen(&long).await.is_ok());

    // A listener of the caller's own is looked at too.
    let server = Server::start().await;
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let config = DoorConfig::new(([127, 0, 0, 1], 0).into());
    let served = Door::new(server.handle().clone(), config)
        .serve(listener, async {})
        .await;
    assert!(matches!(served, Err(DoorError::NeedsToken { .. })));
}

#[test]
fn the_token_is_not_in_the_configurations_text() {
    let mut config = DoorConfig::new(([127, 0, 0, 1], 0).into());
    config.token = Some(TOKEN.into());
    assert!(!format!("{config:?}").contains("guesses"));
}

/// Every route is told by the document, which a test compares with the router.
#[tokio::test]
async fn every_route_asks_for_the_token_but_the_open_ones() {
    let server = guarded().await;
    let auth = format!("Authorization: Bearer {TOKEN}\r\n");
    let document = server.send("GET", "/openapi.json", &auth, b"").await.json();
    let open = ["/", "/healthz", "/readyz", "/session"];
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{id}", "0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a")
            .replace("{name}", "q");
        // Guesses are counted, and slowed down: each path on a door of its own.
        let server = guarded().await;
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
        {
            let method = method.to_uppercase();
            for headers in [
                "",
                "Authorization: Bearer wrong\r\n",
                "Cookie: offloop_session=1.2\r\n",
            ] {
                let answer = server.send(&method, &path, headers, b"").await;
                assert_eq!(
                    answer.status == 401,
                    !open.contains(&path.as_str()),
                    "{method} {path}: {}",
                    answer.status
                );
                seen += 1;
            }
            let answer = server.send(&method, &path, "", b"").await;
            if answer.status == 401 {
                answer.is_problem(401, "unauthorized");
                assert!(
                    answer
                        .header("www-authenticate")
                        .unwrap()
                        .starts_with("Bearer")
                );
            }
        }
    }
    assert!(seen > 50);
}

/// The forms by which path-based guards were passed elsewhere.
#[tokio::test]
async fn no_form_of_a_path_passes_the_guard() {
    let server = guarded().await;
    for form in [
        "//v1/jobs",
        "/v1//jobs",
        "/v1/jobs/",
        "/v1/jobs/.",
        "/v1/jobs/..",
        "/./v1/jobs",
        "/healthz/../v1/jobs",
        "/healthz/v1/jobs",
        "/v1/jobs;healthz",
        "/v1/jobs%2f",
        "/v1/jobs%00",
        "/v1/%6aobs",
        "/%76%31/jobs",
        "/V1/JOBS",
        "/v1/jobs.json",
        "/v1/jobs?healthz",
        "/v1/jobs#/healthz",
        "/v1/jobs/healthz",
        "/v1\\jobs",
        "/metrics/",
        "/metrics%20",
        "/readyz/../metrics",
        "/assets/..%2f..%2fmetrics",
        "/packs.json",
        "/packs.json/",
        "/nope",
        "/healthz%2f..%2fmetrics",
        "/session/../metrics",
    ] {
        let answer = server.get(form).await;
        assert!(
            matches!(answer.status, 400 | 401 | 404),
            "{form}: {}",
            answer.status
        );
        assert!(
            !answer.text().contains("jobs\":") && !answer.text().contains("offloop_ready"),
            "{form}"
        );
    }
}

#[tokio::test]
async fn a_token_is_changed_for_a_cookie_and_the_cookie_works() {
    let server = guarded().await;
    let session = server.get("/session").await.json();
    assert_eq!(
        (&session["needed"], &session["signed_in"]),
        (&true.into(), &false.into())
    );
    server
        .post("/session", r#"{"token":"wrong"}"#)
        .await
        .is_problem(401, "unauthorized");
    server
        .post("/session", r#"{"tokn":"x"}"#)
        .await
        .is_problem(400, "invalid-json");
    server
        .send("POST", "/session", "", b"token=x")
        .await
        .is_problem(415, "media-type");

    let answer = server
        .post("/session", &format!("{{\"token\":\"{TOKEN}\"}}"))
        .await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let cookie = answer.header("set-cookie").unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(TOKEN));
    let shown = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(
        server.send("GET", "/v1/queues", &shown, b"").await.status,
        200
    );
    assert_eq!(
        server.send("GET", "/session", &shown, b"").await.json()["signed_in"],
        true
    );
    let media = "Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n";
    let forged = server
        .send(
            "POST",
            "/v1/jobs",
            &format!("{shown}{media}"),
            br#"{"task":"noop"}"#,
        )
        .await;
    forged.is_problem(403, "cross-site");
    let out = server.send("DELETE", "/session", &shown, b"").await;
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn guessing_is_slowed_and_the_honest_are_not() {
    let server = guarded().await;
    let mut slowed = 0;
    for _ in 0..100 {
        let wrong = server
            .send("GET", "/v1/queues", "Authorization: Bearer guess\r\n", b"")
            .await;
        slowed += usize::from(wrong.status == 429);
    }
    assert!(slowed > 10, "{slowed}");
    let auth = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(
        server.send("GET", "/v1/queues", &auth, b"").await.status,
        200
    );
}

#[tokio::test]
async fn another_sites_page_and_a_rebound_name_are_refused() {
    let server = Server::start().await;
    let rebound = server
        .send("GET", "/v1/queues", "Host: evil.example\r\n", b"")
        .await;
    rebound.is_problem(421, "wrong-host");
    for headers in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
    ] {
        let headers = format!("{headers}Content-Type: application/json\r\n");
        let answer = server
            .send("POST", "/v1/jobs", &headers, br#"{"task":"noop"}"#)
            .await;
        answer.is_problem(403, "cross-site");
    }
    let own = format!(
        "Origin: http://{}\r\nContent-Type: application/json\r\n",
        server.at
    );
    assert_eq!(
        server
            .send("POST", "/v1/jobs", &own, br#"{"task":"noop"}"#)
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn every_answer_carries_the_headers() {
    let server = Server::start().await;
    let evil = server.send("GET", "/", "Host: evil.example\r\n", b"").await;
    let mut answers = vec![evil];
    for path in [
        "/",
        "/assets/app.js",
        "/assets/style.css",
        "/v1/jobs",
        "/nope",
        "/v1/jobs?x=1",
        "/healthz",
        "/metrics",
    ] {
        answers.push(server.get(path).await);
    }
    answers.push(server.send("PUT", "/v1/jobs", "", b"").await);
    answers.push(server.post("/v1/jobs", "{").await);
    for answer in answers {
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(
            answer.header("x-content-type-options").as_deref(),
            Some("nosniff")
        );
        assert_eq!(
            answer.header("referrer-policy").as_deref(),
            Some("no-referrer")
        );
        assert!(
            answer
                .header("cache-control")
                .is_some_and(|value| value == "no-store" || value == "no-cache")
        );
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let server = Server::start().await;
    let id = server
        .job(r#"{"task":"fail","tags":["<img src=x onerror=alert(1)>","\u202e evil"]}"#)
        .await;
    let job = server.end(&id).await;
    assert_eq!(job["failure"]["message"], "no rows <b>at all</b>");
    let answer = server.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("application/json")
    );
    let bad = server
        .post("/v1/jobs", "{\"task\":\"a\\u0000b\\r\\nSet-Cookie: x\"}")
        .await;
    bad.is_problem(422, "invalid-job");
    assert_eq!(bad.header("set-cookie"), None);
}
