//! The dashboard's files and the packs' pages.

use axum::Router;
use axum::routing::get;
use offloop_http::{PackPage, PackRoutes, axum};
use offloop_job::FailureClass;

use crate::support::Server;

fn lab() -> PackRoutes {
    PackRoutes {
        name: "lab".into(),
        router: Router::new().route("/v1/lab", get(|| async { "from the lab" })),
        page: Some(PackPage {
            title: "Lab",
            module: "export function render() {}",
        }),
        openapi: Some(serde_json::json!({"/v1/lab": {"get": {"summary": "The lab."}}})),
        ..PackRoutes::default()
    }
}

#[tokio::test]
async fn the_dashboard_is_complete_and_has_nothing_inline() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert_eq!(
        page.header("content-type").as_deref(),
        Some("text/html; charset=utf-8")
    );
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("script-src 'self'")
    );
    let html = page.text();
    assert!(!html.contains("style=") && !html.contains("onclick") && !html.contains("<script>"));
    let mut left: Vec<String> = vec![html];
    let mut seen = std::collections::BTreeSet::new();
    // Every file that a file names is there, from the page on.
    while let Some(text) = left.pop() {
        for part in text.split("\"/assets/").skip(1) {
            let name = part.split('"').next().unwrap().to_owned();
            if seen.insert(name.clone()) {
                let file = server.get(&format!("/assets/{name}")).await;
                assert_eq!(file.status, 200, "{name}");
                left.push(file.text());
            }
        }
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!text.contains(word), "{word}");
        }
    }
    assert!(
        seen.contains("overview.js") && seen.contains("style.css"),
        "{seen:?}"
    );
    server
        .get("/assets/nope.js")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test]
async fn a_pack_has_its_routes_page_and_document_under_the_same_guard() {
    let server = Server::with_packs(
        |config| config.token = Some("a token that nobody guesses".into()),
        vec![lab()],
        10,
    )
    .await;
    let auth = "Authorization: Bearer a token that nobody guesses\r\n";
    server.get("/v1/lab").await.is_problem(401, "unauthorized");
    assert_eq!(
        server.send("GET", "/v1/lab", auth, b"").await.text(),
        "from the lab"
    );
    server
        .send("POST", "/v1/lab", auth, b"")
        .await
        .is_problem(405, "method-not-allowed");
    let module = server.get("/packs/lab.js").await;
    assert_eq!(module.text(), "export function render() {}");
    assert!(
        module
            .header("content-type")
            .unwrap()
            .starts_with("text/javascript")
    );
    server.get("/packs/lab").await.is_problem(404, "not-found");
    let packs = server.send("GET", "/packs.json", auth, b"").await.json();
    assert_eq!(packs["packs"][0]["title"], "Lab");
    let document = server.send("GET", "/openapi.json", auth, b"").await.json();
    assert_eq!(document["paths"]["/v1/lab"]["get"]["summary"], "The lab.");
}

#[tokio::test]
async fn two_packs_of_one_name_are_refused() {
    let server = Server::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = offloop_http::DoorConfig::new(listener.local_addr().unwrap());
    let door = offloop_http::Door::new(server.handle().clone(), config)
        .pack(lab())
        .pack(lab());
    let refused = door
        .serve(listener, async {})
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("`lab`"), "{refused}");
}

/// A class that the pages do not know could not be asked for, and would look like no failure.
#[tokio::test]
async fn the_pages_know_every_class_of_failure() {
    let server = Server::start().await;
    let pages = server.get("/assets/jobs.js").await.text();
    let style = server.get("/assets/style.css").await.text();
    for class in FailureClass::ALL {
        assert!(pages.contains(&format!("\"{class}\"")), "{class}");
        assert!(style.contains(&format!(".badge.{class}")), "{class}");
    }
}
