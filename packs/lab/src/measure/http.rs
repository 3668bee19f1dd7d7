//! HTTP/1.1 as the probe and the load speak it: by hand, because they run on the cores that they
//! measure.

use std::io;

/// Answers of the lab are small.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 32;

/// A whole answer at the front of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) status: u16,
    /// Where the body begins and ends.
    pub(super) body: (usize, usize),
}

/// `None`: more must be read.
pub(super) fn whole(text: &[u8]) -> io::Result<Option<Whole>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let head = match answer.parse(text) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if text.len() < ANSWER_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(bad("a head without an end".into())),
        Err(error) => return Err(bad(error.to_string())),
    };
    let length: usize = answer
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| {
            std::str::from_utf8(header.value)
                .ok()?
                .parse::<usize>()
                .ok()
        })
        .filter(|length| *length <= ANSWER_BYTES_MAX)
        .ok_or_else(|| bad("an answer without a length, or of too great a length".into()))?;
    let end = head + length;
    Ok((text.len() >= end).then_some(Whole {
        status: answer.code.unwrap_or(0),
        body: (head, end),
    }))
}

pub(super) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: lab\r\n\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is_and_never_before() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nabcHTTP";
        let end = text.len() - 4;
        let want = Whole {
            status: 503,
            body: (end - 3, end),
        };
        assert_eq!(whole(text).unwrap(), Some(want));
        for cut in [0, 10, 30, end - 1] {
            assert_eq!(whole(&text[..cut]).unwrap(), None, "{cut}");
        }
        for bad in [
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            b"SSH-2.0\r\n",
        ] {
            assert!(whole(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
