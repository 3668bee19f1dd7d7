//! Rows as JSON objects: one a line in files, one a job, one a message.
//!
//! Must never: write a number that reads as another one, or a line end inside a row.

use crate::rows::Row;
use crate::target::{Column, Kind};

/// Writes rows of one target. Keys are escaped once.
#[derive(Debug, Clone)]
pub struct JsonRows {
    columns: Box<[(Box<[u8]>, Shape)]>,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Stands as it is: numbers and booleans.
    Bare,
    Text,
    /// JSON already; line ends in it are white space.
    Json,
}

impl JsonRows {
    pub fn new(columns: &[Column]) -> Self {
        let column = |(at, column): (usize, &Column)| {
            let mut key = if at == 0 { vec![b'{'] } else { vec![b','] };
            text(column.name.as_bytes(), &mut key);
            key.push(b':');
            let shape = match column.kind {
                Kind::Int { .. } | Kind::Float | Kind::Decimal { .. } | Kind::Bool => Shape::Bare,
                Kind::Json => Shape::Json,
                Kind::Text | Kind::Date | Kind::Timestamp | Kind::Uuid | Kind::Bytes => Shape::Text,
            };
            (key.into(), shape)
        };
        Self {
            columns: columns.iter().enumerate().map(column).collect(),
        }
    }

    /// Appends `row` as one object, all columns in their order, without a line end.
    pub fn write(&self, row: Row<'_>, out: &mut Vec<u8>) {
        for ((key, shape), field) in self.columns.iter().zip(row.fields()) {
            out.extend_from_slice(key);
            match (field, shape) {
                (None, _) => out.extend_from_slice(b"null"),
                (Some(field), Shape::Bare) => out.extend_from_slice(field),
                (Some(field), Shape::Text) => text(field, out),
                (Some(field), Shape::Json) => out.extend(field.iter().map(|byte| match byte {
                    b'\n' | b'\r' => b' ',
                    other => *other,
                })),
            }
        }
        out.push(b'}');
    }
}

/// A JSON string (RFC 8259, section 7).
fn text(field: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut from = 0;
    for (at, byte) in field.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&field[from..at]);
        from = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
    }
    out.extend_from_slice(&field[from..]);
    out.push(b'"');
}
