//! Targets and whole inputs for tests.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test takes what it needs, and may panic"
)]

use offloop_ingest::{Batch, Checkpoint, RawTarget, ReadError, Reader, Reject, Target};

/// A target from its declaration.
pub(crate) fn declared(toml: &str) -> Target {
    let raw: RawTarget = toml::from_str(toml).unwrap();
    raw.resolve("t")
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// `columns` text columns `c0`, `c1`...; `extra` lines are added to the declaration.
pub(crate) fn target(columns: usize, extra: &str) -> Target {
    let list: Vec<_> = (0..columns)
        .map(|at| format!("{{ name = \"c{at}\", type = \"text\" }}"))
        .collect();
    declared(&format!(
        "sink = \"ndjson\"\npath = \"out\"\ncolumns = [{}]\n{extra}",
        list.join(", ")
    ))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnedRow {
    pub(crate) number: u64,
    pub(crate) offset: u64,
    pub(crate) fields: Vec<Option<Vec<u8>>>,
}

/// Everything that came of an input.
#[derive(Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) rows: Vec<OwnedRow>,
    pub(crate) rejects: Vec<Reject>,
    /// Of each batch: rows, and where to go on behind it.
    pub(crate) batches: Vec<(usize, Checkpoint)>,
    pub(crate) error: Option<ReadError>,
}

impl Read {
    pub(crate) fn keep(&mut self, batch: &Batch) {
        for row in batch.rows() {
            self.rows.push(OwnedRow {
                number: row.number(),
                offset: row.offset(),
                fields: row
                    .fields()
                    .map(|field| field.map(<[u8]>::to_vec))
                    .collect(),
            });
        }
        self.rejects.extend_from_slice(batch.rejects());
        self.batches.push((batch.len(), batch.checkpoint().clone()));
    }

    /// Fields as text, `None` as `~`.
    pub(crate) fn table(&self) -> Vec<Vec<String>> {
        let text = |field: &Option<Vec<u8>>| {
            field.as_ref().map_or("~".to_owned(), |field| {
                String::from_utf8(field.clone()).unwrap()
            })
        };
        self.rows
            .iter()
            .map(|row| row.fields.iter().map(text).collect())
            .collect()
    }

    /// Row numbers and codes.
    pub(crate) fn refused(&self) -> Vec<(u64, &'static str)> {
        self.rejects
            .iter()
            .map(|reject| (reject.row, reject.reason.code()))
            .collect()
    }
}

/// Reads `bytes`, pushed in the pieces that `cuts` make.
pub(crate) fn read_all(target: &Target, bytes: &[u8], cuts: &[usize]) -> Read {
    read_on(Reader::new(target.clone()), bytes, cuts)
}

pub(crate) fn read_on(mut reader: Reader, bytes: &[u8], cuts: &[usize]) -> Read {
    let mut read = Read {
        rows: Vec::new(),
        rejects: Vec::new(),
        batches: Vec::new(),
        error: None,
    };
    read.error = feed(&mut reader, bytes, cuts, &mut read).err();
    while let Some(batch) = reader.flush() {
        read.keep(&batch);
    }
    read
}

fn feed(
    reader: &mut Reader,
    bytes: &[u8],
    cuts: &[usize],
    read: &mut Read,
) -> Result<(), ReadError> {
    let mut from = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        while from < cut {
            from += reader.push(&bytes[from..cut])?;
            if let Some(batch) = reader.take_batch() {
                read.keep(&batch);
            }
        }
    }
    while let Some(batch) = reader.finish()? {
        read.keep(&batch);
    }
    Ok(())
}
