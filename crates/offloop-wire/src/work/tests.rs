//! What workers may say, as a table.

use super::*;

fn pointers<T: std::fmt::Debug>(read: Result<T, BodyError>) -> Vec<String> {
    match read {
        Err(BodyError::Fields(found)) => found.into_iter().map(|one| one.pointer).collect(),
        other => panic!("{other:?}"),
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn a_result_is_kept_as_it_was_written() {
    let body =
        bytes(r#"{"lease":"18446744073709551615","result":{"a": 1.50},"usage":{"cpu_ms":7}}"#);
    let read = read_work_settle(&body).unwrap();
    assert_eq!(read.lease, Lease(u64::MAX));
    assert_eq!(read.end, WorkEnd::Result(bytes(r#"{"a": 1.50}"#)));
    assert_eq!(read.cpu, Some(Duration::from_millis(7)));
    let nothing = read_work_settle(&bytes(r#"{"lease":"1","result":null}"#)).unwrap();
    assert_eq!(nothing.end, WorkEnd::Result(bytes("null")));
}

#[test]
fn what_a_worker_must_not_say_is_refused_by_its_field() {
    let rows = [
        (r#"{"lease":"1"}"#, "/result"),
        (r#"{"lease":"1","result":1,"hand_back":true}"#, "/result"),
        (r#"{"lease":1,"result":1}"#, "/lease"),
        (r#"{"result":1}"#, "/lease"),
        (r#"{"lease":"-1","result":1}"#, "/lease"),
        (r#"{"lease":"1","error":{}}"#, "/error"),
        (
            r#"{"lease":"1","error":{"message":"x","class":"odd"}}"#,
            "/error",
        ),
        (r#"{"lease":"1","error":"x"}"#, "/error"),
        (r#"{"lease":"1","result":1,"result":2}"#, "/result"),
        (r#"{"lease":"1","result":1,"x":2}"#, "/x"),
        (r#"{"lease":"1","result":1,"usage":{"cpu":1}}"#, "/usage"),
    ];
    for (text, want) in rows {
        assert_eq!(pointers(read_work_settle(&bytes(text)))[0], want, "{text}");
    }
    let rows = [
        ("{}", "/worker"),
        (r#"{"worker":"a b"}"#, "/worker"),
        (r#"{"worker":"w","limit":0}"#, "/limit"),
        (r#"{"worker":"w","limit":101}"#, "/limit"),
        (r#"{"worker":"w","wait_ms":55001}"#, "/wait_ms"),
        (r#"{"worker":"w","tasks":"t"}"#, "/tasks"),
        (r#"{"worker":"w","tasks":["a b"]}"#, "/tasks"),
    ];
    for (text, want) in rows {
        assert_eq!(pointers(read_work_claim(&bytes(text)))[0], want, "{text}");
    }
    let rows = [
        (r#"{"leases":[]}"#, "/leases"),
        (r#"{"leases":[{"id":"x","lease":"1"}]}"#, "/leases"),
        ("{}", "/leases"),
    ];
    for (text, want) in rows {
        assert_eq!(pointers(read_work_watch(&bytes(text)))[0], want, "{text}");
    }
    let long = format!(
        r#"{{"lease":"1","progress":"{}"}}"#,
        "x".repeat(PROGRESS_BYTES_MAX)
    );
    assert_eq!(pointers(read_work_extend(&bytes(&long))), ["/progress"]);
    for text in ["", "[]", "{", "1"] {
        let read = read_work_claim(&bytes(text));
        assert!(matches!(read, Err(BodyError::Syntax { .. })), "{text}");
    }
}
