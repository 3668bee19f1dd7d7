//! An HTTP/1.1 answer with its length told, as the server sends them.

use std::io;
use std::ops::Range;

/// A head that is longer is not the server's.
const HEADERS_MAX: usize = 64;

/// Where an answer ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) status: u16,
    pub(super) body: Range<usize>,
    /// The connection is not used again.
    pub(super) closes: bool,
}

/// `None` while something is missing.
pub(super) fn whole(held: &[u8]) -> io::Result<Option<Whole>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(held).map_err(io::Error::other)?;
    let httparse::Status::Complete(begin) = parsed else {
        return Ok(None);
    };
    let status = head.code.unwrap_or(0);
    let find = |name: &str| {
        let found = head
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value)
    };
    let length = match find("content-length") {
        Some(text) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()),
        None if status == 204 => Some(0),
        None => None,
    };
    let Some(length) = length else {
        return Err(io::Error::other("an answer does not tell its length"));
    };
    let closes = find("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    let body = begin..begin + length;
    Ok((held.len() >= body.end).then_some(Whole {
        status,
        body,
        closes,
    }))
}

/// The sentence of a problem document, or the text as it is, bounded.
pub(super) fn detail(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let words = ["detail", "title"]
        .iter()
        .find_map(|key| json[key].as_str());
    let text = words.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_pieces_is_taken_when_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 0..text.len() {
            assert_eq!(whole(&text[..cut]).unwrap(), None, "{cut}");
        }
        let told = whole(text).unwrap().unwrap();
        assert_eq!(
            (told.status, &text[told.body], told.closes),
            (200, &b"hello"[..], false)
        );
        let closing = b"HTTP/1.1 503 no\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        let told = whole(closing).unwrap().unwrap();
        assert!(told.closes && told.status == 503 && told.body.is_empty());
    }

    #[test]
    fn what_cannot_be_measured_is_an_error_and_no_hang() {
        for text in [
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"nonsense\r\n\r\n",
        ] {
            assert!(whole(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(detail(br#"{"title":"a","detail":"b\u0007c"}"#), "bc");
        assert_eq!(detail(b"plain"), "plain");
    }
}
