//! Is the table what the declaration says? Asked before the first byte of a load is taken.
//!
//! Must never: leave to the first bad row what can be said of all of them; change a table that is
//! there.

use tokio_postgres::Client;

use super::copy::{literal, names, quoted};
use super::pool::{Pool, Trouble};
use crate::sink::SinkError;
use crate::target::{Column, Kind, OnConflict, Sink as Destination, Target};

/// A table that fits its target, and the statements for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// `"schema"."table"`.
    pub(super) name: String,
    /// Of the table, for the pack's own tables beside it.
    pub(super) schema: String,
    /// The types of the target's columns as SQL writes them, without their lengths: a cast to
    /// `varchar(3)` would cut a value, where the assignment that follows refuses it.
    pub(super) types: Vec<String>,
    /// Positions of timestamps whose column has no time zone.
    pub(super) zoneless: Vec<usize>,
}

/// One column of the table as the catalog has it.
#[expect(clippy::struct_excessive_bools, reason = "a row of the catalog")]
struct Found {
    name: String,
    sql: String,
    /// The same without a length or precision.
    bare: String,
    /// Name of the type in `pg_type`.
    kind: String,
    /// Of a base type; enums and domains have their own rules.
    is_base: bool,
    not_null: bool,
    has_default: bool,
    is_generated: bool,
}

impl Table {
    pub(super) async fn look(
        client: &Client,
        pool: &Pool,
        target: &Target,
    ) -> Result<Self, Trouble> {
        let Destination::Postgres { table } = target.sink() else {
            return Err(Trouble::Final(SinkError::Ended));
        };
        let asked: Vec<_> = table.split('.').map(quoted).collect();
        let asked = asked.join(".");
        if target.place().create {
            client
                .batch_execute(&create(&asked, target))
                .await
                .map_err(|error| twice(pool, error))?;
        }
        let rows = client
            .simple_query(&format!(
                "SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.oid = to_regclass({})",
                literal(&asked)
            ))
            .await
            .map_err(|error| pool.trouble(error))?;
        let place = texts(&rows).into_iter().next();
        let Some([Some(schema), Some(name), Some(_)]) = place.as_deref() else {
            return Err(problem(format!(
                "there is no table `{table}`; make it, or set create = true"
            )));
        };
        let name = format!("{}.{}", quoted(schema), quoted(name));
        let found = columns(client, pool, &name).await?;
        let problems = problems(target, table, &found);
        if !problems.is_empty() {
            return Err(problem(problems.join("; ")));
        }
        if target.place().on_conflict != OnConflict::Reject
            && let Some(key) = target.key()
        {
            let key = &target.columns()[key].name;
            unique(client, pool, &name, key, table).await?;
        }
        let of = |column: &Column| found.iter().find(|found| found.name == *column.name);
        let types: Vec<_> = target.columns().iter().filter_map(of).collect();
        let is_zoneless = |at: &usize| {
            target.columns()[*at].kind == Kind::Timestamp && types[*at].kind == "timestamp"
        };
        Ok(Self {
            name,
            schema: quoted(schema),
            zoneless: (0..types.len()).filter(is_zoneless).collect(),
            types: types.into_iter().map(|found| found.bare.clone()).collect(),
        })
    }
}

fn problem(problem: String) -> Trouble {
    Trouble::Final(SinkError::Place { problem })
}

/// Two that make a table at once collide in the catalog; the other one has made it.
pub(super) fn twice(pool: &Pool, error: tokio_postgres::Error) -> Trouble {
    match pool.trouble(error) {
        Trouble::Row => Trouble::Again,
        other => other,
    }
}

/// Fields of the rows of a simple query.
pub(super) fn texts(messages: &[tokio_postgres::SimpleQueryMessage]) -> Vec<Vec<Option<String>>> {
    let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            let fields = 0..row.len();
            Some(fields.map(|at| row.get(at).map(str::to_owned)).collect())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

fn create(table: &str, target: &Target) -> String {
    let key = target.key();
    let column = |(at, column): (usize, &Column)| {
        let null = match () {
            () if key == Some(at) => " PRIMARY KEY",
            () if column.null => "",
            () => " NOT NULL",
        };
        format!("{} {}{null}", quoted(&column.name), sql_type(column.kind))
    };
    let columns: Vec<_> = target.columns().iter().enumerate().map(column).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {table} ({})",
        columns.join(", ")
    )
}

/// What a column of this kind is made as.
fn sql_type(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Int { bits } => format!("int{}", bits / 8),
        Kind::Float => "float8".into(),
        Kind::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        Kind::Bool => "boolean".into(),
        Kind::Date => "date".into(),
        Kind::Timestamp => "timestamptz".into(),
        Kind::Uuid => "uuid".into(),
        Kind::Json => "jsonb".into(),
        Kind::Bytes => "bytea".into(),
    }
}

async fn columns(client: &Client, pool: &Pool, name: &str) -> Result<Vec<Found>, Trouble> {
    let rows = client
        .simple_query(&format!(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname, t.typtype = 'b', \
             a.attnotnull, a.atthasdef OR a.attidentity <> '', \
             a.attgenerated <> '' OR a.attidentity = 'a', format_type(a.atttypid, -1) \
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
             WHERE a.attrelid = to_regclass({}) AND a.attnum > 0 AND NOT a.attisdropped",
            literal(name)
        ))
        .await
        .map_err(|error| pool.trouble(error))?;
    let found = |row: Vec<Option<String>>| {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let is = |at: usize| text(at) == "t";
        Found {
            name: text(0),
            sql: text(1),
            kind: text(2),
            is_base: is(3),
            not_null: is(4),
            has_default: is(5),
            is_generated: is(6),
            bare: text(7),
        }
    };
    Ok(texts(&rows).into_iter().map(found).collect())
}

fn problems(target: &Target, table: &str, found: &[Found]) -> Vec<String> {
    let mut problems = Vec::new();
    for column in target.columns() {
        let name = &column.name;
        let Some(there) = found.iter().find(|found| found.name == **name) else {
            let all: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
            problems.push(format!(
                "column `{name}`: table `{table}` has none of that name; it has {}",
                all.join(", ")
            ));
            continue;
        };
        if there.is_generated {
            problems.push(format!(
                "column `{name}`: table `{table}` makes its values itself; leave it out"
            ));
        }
        if let Some(remedy) = misfit(column.kind, there) {
            problems.push(format!(
                "column `{name}`: it is {} in table `{table}` and {} in the declaration; {remedy}",
                there.sql, column.kind
            ));
        }
        if there.not_null && column.null {
            problems.push(format!(
                "column `{name}`: it is NOT NULL in table `{table}`; say null = false"
            ));
        }
    }
    let is_ours = |found: &Found| target.columns().iter().any(|own| *own.name == *found.name);
    for other in found {
        if other.not_null && !other.has_default && !other.is_generated && !is_ours(other) {
            problems.push(format!(
                "column `{}`: table `{table}` needs a value for it (NOT NULL without a default); declare it",
                other.name
            ));
        }
    }
    problems
}

/// What to do about a column that cannot hold all that the declaration lets through.
fn misfit(kind: Kind, there: &Found) -> Option<String> {
    const TEXTS: [&str; 3] = ["text", "varchar", "bpchar"];
    if !there.is_base || TEXTS.contains(&there.kind.as_str()) || kind == Kind::Text {
        return None;
    }
    let ints = ["int2", "int4", "int8"];
    let wide: &[&str] = match kind {
        Kind::Int { bits: 16 } => &["int2", "int4", "int8", "numeric", "float4", "float8"],
        Kind::Int { bits: 32 } => &["int4", "int8", "numeric", "float8"],
        Kind::Int { .. } => &["int8", "numeric"],
        Kind::Float => &["float8", "numeric"],
        Kind::Decimal { .. } => &["numeric"],
        Kind::Bool => &["bool"],
        Kind::Date => &["date", "timestamp", "timestamptz"],
        Kind::Timestamp => &["timestamp", "timestamptz"],
        Kind::Uuid => &["uuid"],
        Kind::Json => &["json", "jsonb"],
        Kind::Bytes => &["bytea"],
        Kind::Text => return None,
    };
    if wide.contains(&there.kind.as_str()) {
        return None;
    }
    Some(match kind {
        Kind::Int { .. } if ints.contains(&there.kind.as_str()) => format!(
            "declare {}, so that what it cannot hold is refused row by row, or widen the column",
            there.kind
        ),
        _ => "make them agree".into(),
    })
}

/// A conflict is only seen by a unique index of that column alone.
async fn unique(
    client: &Client,
    pool: &Pool,
    name: &str,
    key: &str,
    table: &str,
) -> Result<(), Trouble> {
    let rows = client
        .simple_query(&format!(
            "SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
             WHERE i.indrelid = to_regclass({}) AND i.indisunique AND i.indisvalid AND i.indimmediate \
             AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = {}",
            literal(name),
            literal(key)
        ))
        .await
        .map_err(|error| pool.trouble(error))?;
    if texts(&rows).is_empty() {
        return Err(problem(format!(
            "key `{key}`: table `{table}` has no unique index of it; make one (CREATE UNIQUE INDEX ON {table} ({})), or say on_conflict = \"reject\"",
            quoted(key)
        )));
    }
    Ok(())
}

/// The rows of a stage into the table: the statement behind `INSERT INTO`, from `stage` where
/// `condition`, each column cast by `types` if they are text there.
pub(super) fn insert(target: &Target, table: &Table, stage: &str, cast: bool) -> String {
    let columns = target.columns();
    let mut select = Vec::with_capacity(columns.len());
    for (column, sql) in columns.iter().zip(&table.types) {
        let name = quoted(&column.name);
        select.push(if cast {
            format!("CAST({name} AS {sql})")
        } else {
            name
        });
    }
    let (select, names) = (select.join(", "), names(columns));
    let into = format!("INSERT INTO {} ({names})", table.name);
    let key = target.key().map(|key| quoted(&columns[key].name));
    match (target.place().on_conflict, key) {
        (OnConflict::Reject, _) | (_, None) => {
            format!("{into} SELECT {select} FROM {stage} ORDER BY offloop_n")
        }
        (OnConflict::Keep, Some(key)) => format!(
            "{into} SELECT DISTINCT ON ({key}) {select} FROM {stage} ORDER BY {key}, offloop_n \
             ON CONFLICT ({key}) DO NOTHING"
        ),
        (OnConflict::Update, Some(key)) => {
            let own = columns.iter().map(|column| quoted(&column.name));
            let sets: Vec<_> = own
                .filter(|name| *name != key)
                .map(|name| format!("{name} = EXCLUDED.{name}"))
                .collect();
            let action = if sets.is_empty() {
                "NOTHING".into()
            } else {
                format!("UPDATE SET {}", sets.join(", "))
            };
            format!(
                "{into} SELECT DISTINCT ON ({key}) {select} FROM {stage} ORDER BY {key}, offloop_n DESC \
                 ON CONFLICT ({key}) DO {action}"
            )
        }
    }
}
