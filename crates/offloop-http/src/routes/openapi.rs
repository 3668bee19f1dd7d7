//! `/openapi.json`: the paths are a file, the schemas come from `offloop-wire`, packs add theirs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode, Uri};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Answer, json_bytes};
use crate::door::Inner;
use crate::pack::PackRoutes;
use crate::query::Query;

const BASE: &str = include_str!("openapi.json");
/// Subjects with a file of their own: `paths` and `schemas`.
const PARTS: [&str; 3] = [
    include_str!("openapi/limits.json"),
    include_str!("openapi/sweep.json"),
    include_str!("openapi/work.json"),
];

/// The whole document, written once.
pub(crate) fn document(packs: &[PackRoutes]) -> Bytes {
    // Both texts are in the binary, and a test reads them.
    let mut whole: Value = serde_json::from_str(BASE).unwrap_or_default();
    let schemas: Value = serde_json::from_str(offloop_wire::SCHEMAS).unwrap_or_default();
    whole["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    whole["components"]["schemas"] = schemas;
    for part in PARTS {
        let part: Value = serde_json::from_str(part).unwrap_or_default();
        let places = [("/paths", "paths"), ("/components/schemas", "schemas")];
        for (place, name) in places {
            let more = part[name].as_object().cloned().unwrap_or_default();
            if let Some(all) = whole.pointer_mut(place).and_then(Value::as_object_mut) {
                all.extend(more);
            }
        }
    }
    if let Some(paths) = whole["paths"].as_object_mut() {
        for pack in packs {
            let more = pack.openapi.as_ref().and_then(Value::as_object);
            let more: Map<String, Value> = more.cloned().unwrap_or_default();
            paths.extend(more);
        }
    }
    Bytes::from(serde_json::to_vec(&whole).unwrap_or_default())
}

pub(super) async fn get(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let response: Response<Body> = json_bytes(StatusCode::OK, door.openapi.clone());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn paths() -> Map<String, Value> {
        let whole: Value = serde_json::from_slice(&document(&[])).unwrap();
        whole["paths"].as_object().unwrap().clone()
    }

    /// Routes are read from the table itself, so that none is forgotten.
    #[test]
    fn every_route_is_in_the_document() {
        let source = include_str!("mod.rs");
        let mut routes = BTreeSet::new();
        let table = source.split("async fn not_found").next().unwrap();
        for part in table.split(".route(").skip(1) {
            let mut quoted = part.trim_start().trim_start_matches('"').splitn(2, '"');
            let (path, methods) = (quoted.next().unwrap(), quoted.next().unwrap());
            if path.starts_with("/assets") || path.starts_with("/packs/") {
                continue; // files of the dashboard
            }
            for method in ["get(", "post(", "delete(", "put("] {
                if methods.contains(method) {
                    routes.insert((path.to_owned(), method.trim_end_matches('(').to_owned()));
                }
            }
        }
        let mut told = BTreeSet::new();
        for (path, item) in paths() {
            for method in item
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "parameters")
            {
                told.insert((path.clone(), method.clone()));
            }
        }
        assert_eq!(told, routes);
        assert!(routes.len() > 18, "{routes:?}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let whole: Value = serde_json::from_slice(&document(&[])).unwrap();
        let text = whole.to_string();
        let mut seen = 0;
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = &part[..part.find('"').unwrap()];
            assert!(whole.pointer(pointer).is_some(), "{pointer}");
            seen += 1;
        }
        assert!(seen > 30);
        assert_eq!(whole["openapi"], "3.1.0");
    }

    #[test]
    fn a_pack_adds_its_paths() {
        let pack = PackRoutes {
            name: "lab".into(),
            openapi: Some(serde_json::json!({"/v1/lab": {"get": {}}})),
            ..PackRoutes::default()
        };
        let whole: Value = serde_json::from_slice(&document(&[pack])).unwrap();
        assert!(whole["paths"]["/v1/lab"]["get"].is_object());
    }
}
