//! Whether a child's answer is JSON, said faster than by a parser that builds nothing.
//!
//! Results are up to a megabyte, most of them a few long strings: those are passed over many bytes
//! at a time. What this refuses is given to serde_json for the sentence, and its tests hold it to
//! serde_json's verdict.

/// Deeper ones are refused, as serde_json does.
const DEPTH_MAX: usize = 127;

/// One JSON value (RFC 8259) in UTF-8, with blanks around it.
pub(crate) fn is_json(text: &[u8]) -> bool {
    if std::str::from_utf8(text).is_err() {
        return false;
    }
    let mut at = Cursor { text, at: 0 };
    at.document().is_some()
}

/// One JSON value, or why not.
pub(crate) fn check(text: &[u8]) -> Result<(), String> {
    if is_json(text) {
        return Ok(());
    }
    let parsed = serde_json::from_slice::<Box<serde_json::value::RawValue>>(text);
    Err(parsed.map_or_else(|error| error.to_string(), |_| "it is malformed".into()))
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

/// `None`: not JSON.
type Passed = Option<()>;

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn document(&mut self) -> Passed {
        self.blanks();
        self.value(0)?;
        self.blanks();
        (self.at == self.text.len()).then_some(())
    }

    fn value(&mut self, depth: usize) -> Passed {
        match self.peek()? {
            b'"' => self.string(),
            b'{' => self.members(depth, b'}', Self::member),
            b'[' => self.members(depth, b']', Self::value),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    /// From the opening bracket to the closing one.
    fn members(
        &mut self,
        depth: usize,
        close: u8,
        member: fn(&mut Self, usize) -> Passed,
    ) -> Passed {
        if depth == DEPTH_MAX {
            return None;
        }
        self.at += 1;
        self.blanks();
        if self.take(close) {
            return Some(());
        }
        loop {
            member(self, depth + 1)?;
            self.blanks();
            if self.take(close) {
                return Some(());
            }
            self.take(b',').then_some(())?;
            self.blanks();
        }
    }

    fn member(&mut self, depth: usize) -> Passed {
        if self.peek() != Some(b'"') {
            return None;
        }
        self.string()?;
        self.blanks();
        self.take(b':').then_some(())?;
        self.blanks();
        self.value(depth)
    }

    fn word(&mut self, word: &[u8]) -> Passed {
        self.text[self.at..]
            .starts_with(word)
            .then(|| self.at += word.len())
    }

    fn string(&mut self) -> Passed {
        self.at += 1;
        loop {
            self.plain();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.escape()?,
                _ => return None, // a control character
            }
        }
    }

    /// Passes over what stands for itself.
    fn plain(&mut self) {
        const WIDE: usize = 64;
        let special = |byte: u8| byte == b'"' || byte == b'\\' || byte < b' ';
        while let Some(chunk) = self.text[self.at..].first_chunk::<WIDE>() {
            // Without a branch for each byte, so that the compiler takes them many at a time.
            let found = chunk
                .iter()
                .fold(0, |any, byte| any | u8::from(special(*byte)));
            if found != 0 {
                break;
            }
            self.at += WIDE;
        }
        while self.peek().is_some_and(|byte| !special(byte)) {
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Passed {
        self.at += 1;
        match self.peek()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Some(())
            }
            b'u' => {
                let hex = self.text.get(self.at + 1..self.at + 5)?;
                self.at += 5;
                hex.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Passed {
        let _ = self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Some(())
    }

    /// One at least.
    fn digits(&mut self) -> Passed {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serde_says(text: &[u8]) -> bool {
        std::str::from_utf8(text)
            .is_ok_and(|text| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok())
    }

    #[test]
    fn the_verdict_is_that_of_the_parser_on_everything_near_json() {
        let long = format!("[\"{}\\n{}\"]", "x".repeat(200), "ü".repeat(100));
        let seeds = [
            "null",
            " true ",
            "false",
            "0",
            "-0",
            "-1.5e+10",
            "1E5",
            "[]",
            "{}",
            "[1, 2,3 ]",
            "{\"a\": [{\"b\": null}], \"\": \"\\u00e9\\\"\"}",
            "\"\u{7f}ü𝄞\"",
            "\t\r\n1",
            &long,
            "[[[[]]]]",
            "\"\\ud834\"",
            "1e999",
            "{\"a\":1,\"a\":2}",
        ];
        let odd = b"\"\\{}[],:0123456789.eE+-tfn ux\n\x00\x1f\x80\xff";
        let mut tried = 0;
        for seed in seeds {
            assert!(is_json(seed.as_bytes()), "{seed}");
            assert!(serde_says(seed.as_bytes()), "{seed}");
            for at in 0..=seed.len() {
                let (head, tail) = seed.as_bytes().split_at(at);
                let cut = tail.get(1..).unwrap_or_default();
                let mut near = vec![head.to_vec(), [head, cut].concat()];
                for byte in odd {
                    near.push([head, &[*byte], tail].concat());
                    near.push([head, &[*byte], cut].concat());
                }
                for text in near {
                    tried += 1;
                    let shown = String::from_utf8_lossy(&text);
                    assert_eq!(is_json(&text), serde_says(&text), "{shown:?}");
                    assert_eq!(check(&text).is_ok(), is_json(&text), "{shown:?}");
                }
            }
        }
        assert!(tried > 20_000, "{tried}");
    }

    #[test]
    fn depth_has_a_limit_and_no_stack_is_used_up() {
        for depth in [1, 126, 127, 128, 129, 100_000] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(is_json(text.as_bytes()), depth <= DEPTH_MAX, "{depth}");
            let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text);
            assert!(parsed.is_ok() || depth > DEPTH_MAX, "{depth}");
        }
    }
}
