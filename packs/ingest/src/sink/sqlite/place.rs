//! The table as it is declared, made or found, and the statements for it.

use rusqlite::Connection;

use crate::sink::SinkError;
use crate::target::{Column, Kind, OnConflict, Target};

/// SQLite takes 32,766 parameters; beyond some rows a statement gets no faster.
const ROWS_MAX: usize = 64;
const PARAMETERS_MAX: usize = 16_000;

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes the table if it is to be made, and holds it against the declaration.
pub(super) fn check(at: &Connection, target: &Target) -> Result<(), SinkError> {
    let problem = |problem: String| SinkError::Place { problem };
    let table = target.sink().table();
    let wrong = |error: rusqlite::Error| problem(format!("table `{table}`: {error}"));
    if target.place().create {
        at.execute_batch(&create(&table, target)).map_err(wrong)?;
    }
    let mut ask = at
        .prepare("SELECT name, \"notnull\", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo(?1)")
        .map_err(wrong)?;
    let found = ask
        .query_map([&*table], |row| {
            Ok(Found {
                name: row.get(0)?,
                not_null: row.get(1)?,
                has_default: row.get(2)?,
                is_key: row.get::<_, i64>(3)? > 0,
                is_hidden: row.get::<_, i64>(4)? > 0,
            })
        })
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(wrong)?;
    if found.is_empty() {
        return Err(problem(format!(
            "there is no table `{table}`; make it, or set create = true"
        )));
    }
    let problems = problems(target, &table, &found);
    if !problems.is_empty() {
        return Err(problem(problems.join("; ")));
    }
    // Says so if no unique index can see a conflict.
    at.prepare(&insert(target, 1)).map_err(|error| {
        problem(format!(
            "table `{table}` cannot take the rows: {error}; an on_conflict needs a unique index of the key column alone"
        ))
    })?;
    Ok(())
}

#[expect(clippy::struct_excessive_bools, reason = "a row of the catalog")]
struct Found {
    name: String,
    not_null: bool,
    has_default: bool,
    is_key: bool,
    is_hidden: bool,
}

fn problems(target: &Target, table: &str, found: &[Found]) -> Vec<String> {
    let mut problems = Vec::new();
    for column in target.columns() {
        let name = &column.name;
        let is_same = |found: &&Found| found.name.eq_ignore_ascii_case(name);
        match found.iter().find(is_same) {
            None => {
                let all: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
                problems.push(format!(
                    "column `{name}`: table `{table}` has none of that name; it has {}",
                    all.join(", ")
                ));
            }
            Some(there) if there.is_hidden => problems.push(format!(
                "column `{name}`: table `{table}` makes its values itself; leave it out"
            )),
            Some(there) if there.not_null && column.null => problems.push(format!(
                "column `{name}`: it is NOT NULL in table `{table}`; say null = false"
            )),
            Some(_) => {}
        }
    }
    for other in found {
        let is_ours = |own: &Column| own.name.eq_ignore_ascii_case(&other.name);
        let needs = other.not_null && !other.has_default && !other.is_key && !other.is_hidden;
        if needs && !target.columns().iter().any(is_ours) {
            problems.push(format!(
                "column `{}`: table `{table}` needs a value for it (NOT NULL without a default); declare it",
                other.name
            ));
        }
    }
    problems
}

fn create(table: &str, target: &Target) -> String {
    let column = |(at, column): (usize, &Column)| {
        let sql = match column.kind {
            Kind::Int { .. } | Kind::Bool => "INTEGER",
            Kind::Float => "REAL",
            Kind::Bytes => "BLOB",
            // Decimals as text: a REAL would round them.
            Kind::Text
            | Kind::Decimal { .. }
            | Kind::Date
            | Kind::Timestamp
            | Kind::Uuid
            | Kind::Json => "TEXT",
        };
        let null = match () {
            () if target.key() == Some(at) => " NOT NULL PRIMARY KEY",
            () if column.null => "",
            () => " NOT NULL",
        };
        format!("{} {sql}{null}", quoted(&column.name))
    };
    let columns: Vec<_> = target.columns().iter().enumerate().map(column).collect();
    let columns = columns.join(", ");
    format!("CREATE TABLE IF NOT EXISTS {} ({columns})", quoted(table))
}

/// Rows of one statement.
pub(super) fn rows_at_once(target: &Target) -> usize {
    (PARAMETERS_MAX / target.columns().len().max(1)).clamp(1, ROWS_MAX)
}

/// For so many rows.
pub(super) fn insert(target: &Target, rows: usize) -> String {
    let columns = target.columns();
    let names: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    let row = format!("({})", vec!["?"; columns.len()].join(","));
    let values = vec![row; rows].join(",");
    let key = target.key().map(|key| quoted(&columns[key].name));
    let conflict = match (target.place().on_conflict, key) {
        (OnConflict::Reject, _) | (_, None) => String::new(),
        (OnConflict::Keep, Some(key)) => format!(" ON CONFLICT ({key}) DO NOTHING"),
        (OnConflict::Update, Some(key)) => {
            let sets: Vec<_> = names
                .iter()
                .filter(|name| **name != key)
                .map(|name| format!("{name} = excluded.{name}"))
                .collect();
            if sets.is_empty() {
                format!(" ON CONFLICT ({key}) DO NOTHING")
            } else {
                format!(" ON CONFLICT ({key}) DO UPDATE SET {}", sets.join(", "))
            }
        }
    };
    format!(
        "INSERT INTO {} ({}) VALUES {values}{conflict}",
        quoted(&target.sink().table()),
        names.join(", ")
    )
}
