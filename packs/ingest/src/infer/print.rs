//! A declaration as TOML, with comments. Must never: print what would be read back otherwise.

use std::fmt::Write;

use crate::decode::Encoding;
use crate::target::RawTarget;

pub(super) fn toml(name: &str, raw: &RawTarget, doubts: &[String]) -> String {
    let mut out = String::new();
    // Writing into memory cannot fail.
    let _ = write_toml(&mut out, name, raw, doubts);
    out
}

fn write_toml(
    out: &mut String,
    name: &str,
    raw: &RawTarget,
    doubts: &[String],
) -> std::fmt::Result {
    for doubt in doubts {
        writeln!(out, "# Look at this: {}", one_line(doubt))?;
    }
    writeln!(out, "[ingest.targets.{name}]")?;
    line(out, "sink", Some(&raw.sink))?;
    line(out, "path", raw.path.as_ref())?;
    line(out, "table", raw.table.as_ref())?;
    if raw.create == Some(true) {
        writeln!(out, "create = true")?;
    }
    line(out, "header", raw.header.as_ref())?;
    line(out, "delimiter", raw.delimiter.as_ref())?;
    line(out, "quote", raw.quote.as_ref())?;
    if let Some(encoding) = raw.encoding {
        writeln!(out, "encoding = \"{}\"", encoding_name(encoding))?;
    }
    if let Some(nulls) = &raw.null {
        let nulls: Vec<_> = nulls.iter().map(|null| quoted(null)).collect();
        writeln!(out, "null = [{}]", nulls.join(", "))?;
    }
    out.push_str("columns = [\n");
    for column in &raw.columns {
        write!(out, "  {{ name = {}", quoted(&column.name))?;
        if let Some(from) = &column.from {
            write!(out, ", from = {}", quoted(from))?;
        }
        writeln!(out, ", type = \"{}\" }},", column.kind)?;
    }
    out.push_str("]\n");
    Ok(())
}

fn line(out: &mut String, key: &str, value: Option<&String>) -> std::fmt::Result {
    match value {
        Some(value) => writeln!(out, "{key} = {}", quoted(value)),
        None => Ok(()),
    }
}

const fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Utf8 => "utf-8",
        Encoding::Latin1 => "latin1",
        Encoding::Windows1252 => "windows-1252",
        Encoding::Utf16 => "utf-16",
        Encoding::Utf16Le => "utf-16le",
        Encoding::Utf16Be => "utf-16be",
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A basic string of TOML 1.0.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
