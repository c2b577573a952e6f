//! The recipes for SQL in SQLite.

use rusqlite::Connection;
use tempfile::TempDir;

use crate::engine::{Engine, Outcome, Session, Value};

/// A database file.
pub(crate) struct File {
    directory: TempDir,
}

impl File {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }
}

impl Engine for File {
    type Session<'a> = Connection;

    fn session(&self) -> Connection {
        let connection = Connection::open(self.directory.path().join("bank.db")).unwrap();
        // Nothing here has to outlive a crash of the machine.
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;").unwrap();
        connection
    }

    const AUDIT: &'static str = "
        CREATE TABLE let_in (number INTEGER PRIMARY KEY, fence BIGINT NOT NULL);
        CREATE TRIGGER inserted AFTER INSERT ON account BEGIN INSERT INTO let_in (fence) VALUES (NEW.fence); END;
        CREATE TRIGGER updated AFTER UPDATE ON account BEGIN INSERT INTO let_in (fence) VALUES (NEW.fence); END;";
}

impl Session for Connection {
    fn batch(&mut self, sql: &str) {
        self.execute_batch(sql).unwrap();
    }

    fn run(&mut self, statement: &str, values: &[Value<'_>]) -> Outcome {
        let mut prepared = self.prepare(statement).unwrap();
        for (index, value) in values.iter().enumerate() {
            let index =
                prepared.parameter_index(&format!("${}", index + 1)).unwrap().expect("it is in there");
            let bound = match *value {
                Value::Text(text) => prepared.raw_bind_parameter(index, text),
                Value::Fence(fence) => prepared.raw_bind_parameter(index, i64::from(fence)),
                Value::Number(number) => prepared.raw_bind_parameter(index, i64::try_from(number).unwrap()),
            };
            bound.unwrap();
        }
        let mut rows = prepared.raw_query();
        let mut returned = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            returned.push(u64::try_from(row.get::<_, i64>(0).unwrap()).unwrap());
        }
        drop(rows);
        drop(prepared);
        Outcome { changed: usize::try_from(self.changes()).unwrap(), returned }
    }
}
