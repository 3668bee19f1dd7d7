//! Rows in the text form of COPY, and the statements around it.
//!
//! The text form, because its speed is the binary one's within 3 % (docs/adr/0027) and because the
//! server reads it with the types' own input functions: any type of column can take it.
//!
//! Must never: let a field end a row, or a text read as a null.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::{Client, Error, Statement};

use crate::rows::{Batch, Row};
use crate::target::{Column, Kind};

/// One message to the server: large enough that its cost does not count.
const MESSAGE_BYTES: usize = 128 << 10;

#[derive(Debug, Clone, Copy)]
enum Shape {
    Bare,
    Escaped,
    Hex,
}

/// Writes rows of one target.
#[derive(Debug)]
pub(super) struct CopyRows {
    shapes: Box<[Shape]>,
}

impl CopyRows {
    pub(super) fn new(columns: &[Column]) -> Self {
        let shape = |column: &Column| match column.kind {
            Kind::Text | Kind::Json => Shape::Escaped,
            Kind::Bytes => Shape::Hex,
            _ => Shape::Bare,
        };
        Self {
            shapes: columns.iter().map(shape).collect(),
        }
    }

    fn write(&self, row: Row<'_>, out: &mut BytesMut) {
        for (at, (shape, field)) in self.shapes.iter().zip(row.fields()).enumerate() {
            if at > 0 {
                out.extend_from_slice(b"\t");
            }
            match (field, shape) {
                (None, _) => out.extend_from_slice(b"\\N"),
                (Some(field), Shape::Bare) => out.extend_from_slice(field),
                (Some(field), Shape::Escaped) => escaped(field, out),
                (Some(field), Shape::Hex) => {
                    out.extend_from_slice(b"\\\\x");
                    out.extend_from_slice(field);
                }
            }
        }
        out.extend_from_slice(b"\n");
    }

    /// Sends the rows of `batch` but those in `skip`, which is ordered; with their place in the
    /// batch in front of each if `numbered`. Returns how many.
    pub(super) async fn send(
        &self,
        client: &Client,
        statement: &Statement,
        batch: &Batch,
        skip: &[usize],
        numbered: bool,
    ) -> Result<u64, Error> {
        let mut to = pin!(client.copy_in::<_, Bytes>(statement).await?);
        let mut out = BytesMut::with_capacity(MESSAGE_BYTES + MESSAGE_BYTES / 4);
        let mut skip = skip.iter().peekable();
        for (at, row) in batch.rows().enumerate() {
            if skip.next_if(|next| **next == at).is_some() {
                continue;
            }
            if numbered {
                out.extend_from_slice(at.to_string().as_bytes());
                out.extend_from_slice(b"\t");
            }
            self.write(row, &mut out);
            if out.len() >= MESSAGE_BYTES {
                to.send(out.split().freeze()).await?;
                out.reserve(MESSAGE_BYTES + MESSAGE_BYTES / 4);
            }
        }
        if !out.is_empty() {
            to.send(out.freeze()).await?;
        }
        to.finish().await
    }
}

fn escaped(field: &[u8], out: &mut BytesMut) {
    let is_special = |byte: &u8| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r');
    let mut rest = field;
    while let Some(at) = rest.iter().position(is_special) {
        out.extend_from_slice(&rest[..at]);
        let letter = match rest[at] {
            b'\t' => b't',
            b'\n' => b'n',
            b'\r' => b'r',
            other => other,
        };
        out.extend_from_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// An identifier in double quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal (standard_conforming_strings is on).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The columns, quoted, with commas.
pub(super) fn names(columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    names.join(", ")
}
