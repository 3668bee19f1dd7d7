//! Forms: the same file whatever the pieces are, and nothing that is no file.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use offloop_ingest::decode::form::{FormError, FormFile};
use proptest::prelude::*;

const TYPE: &str = "multipart/form-data; boundary=XyZ";

/// The file of `body` in pieces of these sizes, the last one for the rest.
fn read(kind: &str, body: &[u8], sizes: &[usize]) -> Result<Vec<u8>, FormError> {
    let mut form = FormFile::new(kind)?;
    let mut rest = Bytes::copy_from_slice(body);
    let mut sizes = sizes.iter().copied();
    let mut file = Vec::new();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len());
        let piece = rest.split_to(size.clamp(1, rest.len()));
        let mut out = Vec::new();
        let pushed = form.push(&piece, &mut out);
        file.extend(out.concat());
        pushed?;
    }
    form.finish()?;
    Ok(file)
}

fn form(file: &[u8]) -> Vec<u8> {
    let mut body = b"--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\nContent-Type: text/csv\r\n\r\n".to_vec();
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--XyZ--\r\n");
    body
}

/// Bytes that are nearly a boundary now and then.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => Just(b"\r\n--Xy".to_vec()),
        1 => Just(b"\r\n\r\n--XYZ".to_vec()),
        1 => Just(b"\r\r\n-".to_vec()),
        1 => Just(b"--XyZ".to_vec()),
        1 => Just(b"\n--XyZ--\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
    ];
    let pieces = proptest::collection::vec(piece, 0..12);
    let bytes = pieces.prop_map(|pieces| pieces.concat());
    let is_plain = |bytes: &Vec<u8>| !bytes.windows(7).any(|seven| seven == b"\r\n--XyZ");
    bytes.prop_filter("a boundary of the form itself", is_plain)
}

/// What RFC 2046 says of a whole body that has one part, read all at once.
fn reference(body: &[u8]) -> Option<&[u8]> {
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|at| at == what);
    let head = find(body, b"\r\n\r\n")? + 4;
    let end = find(&body[head..], b"\r\n--XyZ")?;
    Some(&body[head..head + end])
}

proptest! {
    #[test]
    fn a_file_is_the_same_whatever_the_pieces_are(
        file in nearly(),
        sizes in proptest::collection::vec(1_usize..30, 0..60),
    ) {
        let body = form(&file);
        prop_assert_eq!(reference(&body), Some(&file[..]));
        let whole = read(TYPE, &body, &[]);
        prop_assert_eq!(whole.as_deref(), Ok(&file[..]));
        prop_assert_eq!(read(TYPE, &body, &sizes), Ok(file.clone()));
        let single = vec![1; body.len()];
        prop_assert_eq!(read(TYPE, &body, &single), Ok(file));
    }

    #[test]
    fn any_bytes_are_refused_alike_in_any_pieces(
        bytes in nearly(),
        at in 0_usize..200,
        sizes in proptest::collection::vec(1_usize..9, 0..300),
    ) {
        let mut body = form(b"id,name\r\n1,a");
        let at = at.min(body.len());
        body.splice(at..at, bytes);
        prop_assert_eq!(read(TYPE, &body, &[]), read(TYPE, &body, &sizes));
    }

    #[test]
    fn a_body_that_is_cut_anywhere_is_never_whole(file in nearly(), cut in 1_usize..2_000) {
        let body = form(&file);
        let end = body.len() - b"--\r\n".len();
        let cut = cut.min(end);
        prop_assert_eq!(read(TYPE, &body[..cut], &[]), Err(FormError::Cut));
    }
}

#[test]
fn what_senders_write_is_read() {
    let disposition = "Content-Disposition: form-data; name=\"file\"; filename=\"a.csv\"";
    let head = |lines: &str| format!("--XyZ\r\n{lines}\r\n\r\nrows\r\n--XyZ--");
    let quoted = "multipart/form-data; charset=utf-8; boundary=\"XyZ\"";
    let rows = [
        ("curl", TYPE, head(disposition)),
        ("a quoted boundary", quoted, head(disposition)),
        (
            "any case",
            "Multipart/Form-Data; BOUNDARY=XyZ",
            head(&disposition.to_uppercase().replace("\"FILE\"", "\"file\"")),
        ),
        (
            "a preamble, padding and an epilogue",
            TYPE,
            format!("hello\r\n--XyZ \t\r\n{disposition}\r\n\r\nrows\r\n--XyZ--  \r\nbye"),
        ),
        (
            "a file of another name, without a file name in the disposition of others",
            TYPE,
            head("content-disposition:form-data;name=upload;filename=a.csv"),
        ),
        (
            "a field of that name",
            TYPE,
            head("Content-Disposition: form-data; name=file"),
        ),
        (
            "escaped quotes",
            TYPE,
            head("Content-Disposition: form-data; name=\"file\"; filename=\"a\\\"b\\\\.csv\""),
        ),
        (
            "a path of Windows, and another field",
            TYPE,
            head(
                "X-Other: 1\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\a.csv\"\r\nContent-Transfer-Encoding: BINARY",
            ),
        ),
        (
            "a name in UTF-8, twice",
            TYPE,
            head(
                "Content-Disposition: form-data; name=\"file\"; filename=\"ü.csv\"; filename*=UTF-8''%C3%BC.csv",
            ),
        ),
    ];
    for (what, kind, body) in rows {
        let file = read(kind, body.as_bytes(), &[]);
        assert_eq!(file.as_deref(), Ok(&b"rows"[..]), "{what}");
    }
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_refused() {
    let file = "Content-Disposition: form-data; name=\"file\"; filename=\"a.csv\"";
    let part = |head: &str| format!("--XyZ\r\n{head}\r\n\r\nrows\r\n--XyZ--\r\n");
    let kinds = [
        ("multipart/form-data", "there is none"),
        ("multipart/form-data; boundary=", "length"),
        (
            "multipart/form-data; boundary=a; boundary=b",
            "there are two",
        ),
        ("multipart/form-data; boundary=\"a", "not closed"),
        ("multipart/form-data; boundary=\"a{b\"", "RFC 2046"),
        ("multipart/form-data; boundary=\"a \"", "RFC 2046"),
    ];
    for (kind, says) in kinds {
        let told = FormFile::new(kind).unwrap_err().to_string();
        assert!(told.contains(says), "{kind}: {told}");
    }
    let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
    assert!(FormFile::new(&long).is_err());
    let many = "X-A: 1\r\n".repeat(16) + file;
    let rows = [
        (
            part("Content-Disposition: form-data; name=\"tenant\""),
            "`tenant` before its file",
        ),
        (
            part(file).replace(
                "--XyZ--",
                "--XyZ\r\nContent-Disposition: form-data; name=more\r\n\r\nx\r\n--XyZ--",
            ),
            "`more` behind its file",
        ),
        (part("Content-Type: text/csv"), "no Content-Disposition"),
        (part(&format!("{file}\r\n{file}")), "twice"),
        (part(&format!("{file}; name=b")), "given twice"),
        (part(&format!("{file}\r\n folded: 1")), "folded"),
        (part(&format!("{file}\r\nno colon")), "without a colon"),
        (part(&format!("{file}\r\nX: a\nY: b")), "control"),
        (part(&many), "more than 16 fields"),
        (
            part(&format!("{file}\r\nX: {}", "x".repeat(9_000))),
            "over 8192 bytes",
        ),
        (
            part(&format!("{file}\r\nContent-Transfer-Encoding: base64")),
            "base64",
        ),
        (
            part("Content-Disposition: attachment; name=file"),
            "not form-data",
        ),
        (
            part("Content-Disposition: form-data; filename=a"),
            "no name",
        ),
        (
            part(file).replace("rows\r\n--XyZ", "rows\r\n--XyZ0"),
            "neither a line end nor",
        ),
        (
            format!("{}{}", "x".repeat(70_000), part(file)),
            "before its first boundary",
        ),
        (
            format!("{}{}", part(file), "x".repeat(70_000)),
            "behind its last boundary",
        ),
        ("--XyZ--\r\n".into(), "no file"),
        (String::new(), "closing boundary"),
        (part(file).replace("--XyZ--", ""), "closing boundary"),
    ];
    for (body, says) in rows {
        let told = read(TYPE, body.as_bytes(), &[]).unwrap_err().to_string();
        assert!(told.contains(says), "{says}: {told}");
    }
}
