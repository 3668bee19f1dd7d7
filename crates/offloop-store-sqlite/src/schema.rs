//! The tables, and how an older file is brought forward.
//!
//! One file per step in `migrations/`; step N makes version N of version N - 1. A file of a newer
//! version is refused: it may hold what this program would not see.
//!
//! Must never: change a step that was released. Add one.

use rusqlite::Connection;

use crate::open::OpenError;

/// "offl": so that `file` and we know our own.
pub(crate) const APPLICATION_ID: i64 = 0x6f66_666c;

const STEPS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_usage.sql"),
    include_str!("migrations/0003_checkpoints.sql"),
    include_str!("migrations/0004_limits.sql"),
    include_str!("migrations/0005_unique_periods.sql"),
    include_str!("migrations/0006_modes.sql"),
    include_str!("migrations/0007_groups.sql"),
    include_str!("migrations/0008_schedules.sql"),
    include_str!("migrations/0009_keep.sql"),
    include_str!("migrations/0010_tags.sql"),
    include_str!("migrations/0011_declared_limits.sql"),
    include_str!("migrations/0012_unheard.sql"),
    include_str!("migrations/0013_rare.sql"),
];

/// The version that this program reads and writes.
pub(crate) const VERSION: i64 = STEPS.len() as i64;

/// Brings the file to [`VERSION`], each step in a transaction of its own.
pub(crate) fn migrate(conn: &Connection) -> Result<(), OpenError> {
    let number = |pragma| conn.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if application != APPLICATION_ID && (tables > 0 || application != 0) {
        return Err(OpenError::Foreign { application });
    }
    if version > VERSION {
        return Err(OpenError::Newer {
            found: version,
            known: VERSION,
        });
    }
    if version > 0 && version < VERSION {
        // Of many jobs this may take a while: a step may go over all of them.
        tracing::info!(
            from = version,
            to = VERSION,
            "bringing the store's file to a new version"
        );
    }
    migrate_between(conn, version, VERSION)?;
    Ok(())
}

fn migrate_between(conn: &Connection, from: i64, to: i64) -> rusqlite::Result<()> {
    for version in from..to {
        let step = STEPS[version as usize];
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; {step}; PRAGMA application_id = {APPLICATION_ID}; \
             PRAGMA user_version = {}; COMMIT;",
            version + 1
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(conn: &Connection) -> Vec<String> {
        let mut found = conn
            .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name")
            .unwrap();
        let rows = found.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_file_migrated_step_by_step_equals_a_fresh_one() {
        let fresh = Connection::open_in_memory().unwrap();
        migrate(&fresh).unwrap();
        let old = Connection::open_in_memory().unwrap();
        for version in 0..VERSION {
            migrate_between(&old, version, version + 1).unwrap();
        }
        assert_eq!(schema(&old), schema(&fresh));
        migrate(&old).unwrap();
    }

    #[test]
    fn a_newer_file_and_a_stranger_are_refused() {
        let newer = Connection::open_in_memory().unwrap();
        migrate(&newer).unwrap();
        newer.execute_batch("PRAGMA user_version = 999").unwrap();
        assert!(matches!(
            migrate(&newer),
            Err(OpenError::Newer { found: 999, .. })
        ));
        let stranger = Connection::open_in_memory().unwrap();
        stranger.execute_batch("CREATE TABLE t (a)").unwrap();
        assert!(matches!(migrate(&stranger), Err(OpenError::Foreign { .. })));
    }

    /// The classes that people read are those that engines write.
    #[test]
    fn the_view_names_every_class() {
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn).unwrap();
        let mut query = conn
            .prepare("SELECT class FROM v_classes ORDER BY code")
            .unwrap();
        let rows = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let told: Vec<_> = rows.map(Result::unwrap).collect();
        let known = offloop_job::FailureClass::ALL.map(|class| class.to_string());
        assert_eq!(told, known);
    }

    /// Jobs of an older file are found by their tags as new ones are, whatever is in them.
    #[test]
    fn tags_of_an_older_file_are_found() {
        let conn = Connection::open_in_memory().unwrap();
        migrate_between(&conn, 0, 9).unwrap(); // the step before tags
        let tags = ["a, b;c=%", "%2C", "ž"].map(|text| offloop_job::Tag::parse(text).unwrap());
        let options = offloop_job::JobOptions {
            tags: tags.to_vec(),
            cores: 2,
            trace: Some("x".into()),
            ..offloop_job::JobOptions::default()
        };
        let sql = "INSERT INTO jobs (id, rnd, line, state, priority, attempt, streak, due_at, options) \
                   VALUES (?1, 1, 1, 2, 5, 0, 0, 1, ?2)";
        let text = offloop_store::codec::encode(&options);
        conn.execute(sql, (7, &text)).unwrap();
        conn.execute(sql, (8, Some("cores=2"))).unwrap();
        conn.execute(sql, (9, None::<String>)).unwrap();
        migrate(&conn).unwrap();
        let mut found = conn
            .prepare("SELECT job, tag FROM job_tags ORDER BY tag")
            .unwrap();
        let rows = found
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        let rows: Vec<(i64, String)> = rows.map(Result::unwrap).collect();
        let mut want = tags.map(|tag| (7, tag.to_string()));
        want.sort();
        assert_eq!(rows, want);
    }

    #[test]
    fn the_views_read() {
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn).unwrap();
        conn.execute_batch(
            "INSERT INTO lines VALUES (1, 'q', 't');
             INSERT INTO jobs VALUES ((0x0199f3c27c1e << 12) | 0x123, 5, 1, 2, 5, 0, 0, 1000,
               NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, x'7b7d', NULL, NULL);
             SELECT * FROM v_attempts; SELECT * FROM v_usage;
             SELECT * FROM v_groups",
        )
        .unwrap();
        let (job, state): (String, String) = conn
            .query_row("SELECT job, state FROM v_jobs", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        let id = offloop_job::JobId::from_parts((0x0199_f3c2_7c1e << 12) | 0x123, 5);
        assert_eq!((job, state), (id.to_string(), "ready".to_owned()));
    }
}
