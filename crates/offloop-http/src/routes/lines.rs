//! Lines out of a body that comes in pieces: no line is copied that came whole, none grows past
//! its limit, and one that is too long costs only itself.

use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// In [`Lines::block`], without its end.
    Text(Range<usize>),
    TooLong,
}

/// Cuts pieces into lines. Pieces are pushed when no line is left.
#[derive(Debug)]
pub(super) struct Lines {
    line_max: usize,
    /// Whole lines.
    block: Bytes,
    at: usize,
    /// The start of a line whose end has not come.
    rest: BytesMut,
    /// Within a line that was told to be too long.
    skipping: bool,
    too_long: bool,
    number: u64,
}

impl Lines {
    pub(super) fn new(line_max: usize) -> Self {
        Self {
            line_max,
            block: Bytes::new(),
            at: 0,
            rest: BytesMut::new(),
            skipping: false,
            too_long: false,
            number: 0,
        }
    }

    pub(super) fn block(&self) -> &Bytes {
        &self.block
    }

    /// Lines that were told, blank ones counted.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn push(&mut self, mut piece: Bytes) {
        debug_assert!(self.at == self.block.len(), "lines are left");
        if self.skipping {
            let Some(end) = memchr::memchr(b'\n', &piece) else {
                return;
            };
            piece.advance(end + 1);
            self.skipping = false;
        }
        let Some(end) = memchr::memrchr(b'\n', &piece) else {
            self.keep(&piece);
            return;
        };
        if self.rest.is_empty() {
            self.block = piece.split_to(end + 1);
        } else {
            self.rest.extend_from_slice(&piece.split_to(end + 1));
            self.block = self.rest.split().freeze();
        }
        self.at = 0;
        self.keep(&piece);
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.rest.len() + piece.len() > self.line_max {
            self.rest.clear();
            self.skipping = true;
            self.too_long = true;
        } else {
            self.rest.extend_from_slice(piece);
        }
    }

    /// No piece follows: what is left is the last line.
    pub(super) fn finish(&mut self) {
        self.block = self.rest.split().freeze();
        self.at = 0;
    }

    /// The next line that is not blank, with its number.
    pub(super) fn next(&mut self) -> Option<(u64, Line)> {
        while self.at < self.block.len() {
            let start = self.at;
            let found = memchr::memchr(b'\n', &self.block[start..]);
            let end = found.map_or(self.block.len(), |found| start + found);
            self.at = found.map_or(end, |_| end + 1);
            self.number += 1;
            if end - start > self.line_max {
                return Some((self.number, Line::TooLong));
            }
            if !self.block[start..end].trim_ascii().is_empty() {
                return Some((self.number, Line::Text(start..end)));
            }
        }
        if std::mem::take(&mut self.too_long) {
            self.number += 1;
            return Some((self.number, Line::TooLong));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `text` in pieces that end at `cuts`.
    fn read(text: &[u8], cuts: &[usize], max: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut lines = Lines::new(max);
        let mut found = Vec::new();
        let mut drain = |lines: &mut Lines| {
            while let Some((number, line)) = lines.next() {
                found.push(match line {
                    Line::Text(range) => (number, Some(lines.block()[range].to_vec())),
                    Line::TooLong => (number, None),
                });
            }
        };
        let mut start = 0;
        for cut in cuts.iter().copied().chain([text.len()]) {
            let end = cut.clamp(start, text.len());
            lines.push(Bytes::copy_from_slice(&text[start..end]));
            drain(&mut lines);
            start = end;
        }
        lines.finish();
        drain(&mut lines);
        found
    }

    #[test]
    fn a_line_that_is_too_long_costs_only_itself() {
        let text = b"a\n\nbbbbbbb\r\n  \ncc\nddddddd";
        for cuts in [
            &[][..],
            &[2],
            &[5],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        ] {
            let want = [
                (1, Some(b"a".to_vec())),
                (3, None),
                (5, Some(b"cc".to_vec())),
                (6, None),
            ];
            assert_eq!(read(text, cuts, 5), want, "{cuts:?}");
        }
    }

    proptest! {
        #[test]
        fn where_pieces_end_does_not_matter(
            text in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), Just(b' ')], 0..60),
            cuts in prop::collection::vec(0_usize..60, 0..6),
            max in 1_usize..8,
        ) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let want: Vec<_> = text
                .split(|byte| *byte == b'\n')
                .enumerate()
                .filter(|(_, line)| line.len() > max || !line.trim_ascii().is_empty())
                .map(|(index, line)| (index as u64 + 1, (line.len() <= max).then(|| line.to_vec())))
                .collect();
            prop_assert_eq!(read(&text, &cuts, max), want);
        }
    }
}
