//! The recipes for SQL, in either database.

use std::sync::LazyLock;
use std::thread;

use redsync::Fence;

use crate::claims::{Refused, Resource, User, fence};
use crate::engine::{Engine, Outcome, Session, Value};
use crate::page::block;
use crate::postgres::Schema;
use crate::sqlite::File;

const ID: &str = "7";
const LOCK: &str = "account:7";

/// A row with its fence in it.
pub(crate) struct Row<E> {
    engine: E,
    /// The row may not be there yet when it is written.
    inserts: bool,
}

impl<E: Engine> Row<E> {
    pub(crate) fn update(engine: E) -> Self {
        let row = Self::insert(engine);
        // It was there before fences were.
        row.engine.session().batch(&format!("INSERT INTO account VALUES ('{ID}', 0, 0);"));
        Self { inserts: false, ..row }
    }

    pub(crate) fn insert(engine: E) -> Self {
        let mut session = engine.session();
        session.batch(block("sql", "CREATE TABLE account"));
        session.batch(E::AUDIT);
        drop(session);
        Self { engine, inserts: true }
    }
}

impl<E: Engine> Resource for Row<E> {
    fn user(&self) -> Box<dyn User + '_> {
        Box::new(RowUser { session: self.engine.session(), inserts: self.inserts })
    }

    fn let_in(&self) -> Option<Vec<u64>> {
        Some(self.engine.session().run("SELECT fence FROM let_in ORDER BY number", &[]).returned)
    }
}

struct RowUser<S> {
    session: S,
    inserts: bool,
}

impl<S: Session> User for RowUser<S> {
    fn write(&mut self, number: u64, fence: Fence) -> Result<(), Refused> {
        let (id, number, fence) = (Value::Text(ID), Value::Number(number), Value::Fence(fence));
        let outcome = if self.inserts {
            self.session.run(block("sql", "INSERT INTO account"), &[id, number, fence])
        } else {
            self.session.run(block("sql", "UPDATE account SET balance"), &[number, fence, id])
        };
        if outcome.changed == 1 { Ok(()) } else { Err(Refused) }
    }

    fn read(&mut self, fence: Fence) -> Result<u64, Refused> {
        let values = [Value::Fence(fence), Value::Text(ID)];
        let outcome = self.session.run(block("sql", "UPDATE account SET fence"), &values);
        outcome.returned.first().copied().ok_or(Refused)
    }
}

/// A row for the lock, before rows that have no fence.
pub(crate) struct RowOfTheLock<E> {
    engine: E,
}

impl<E: Engine> RowOfTheLock<E> {
    pub(crate) fn new(engine: E) -> Self {
        let mut session = engine.session();
        session.batch(block("sql", "CREATE TABLE fence"));
        session.batch(&format!(
            "CREATE TABLE account (id TEXT PRIMARY KEY, balance BIGINT NOT NULL);
             CREATE TABLE entry (number BIGINT PRIMARY KEY, fence BIGINT NOT NULL);
             INSERT INTO account VALUES ('{ID}', 0);"
        ));
        drop(session);
        Self { engine }
    }
}

/// The statements of the recipe: the one that begins, the one that compares, and the one that ends.
static TRANSACTION: LazyLock<[String; 3]> = LazyLock::new(|| {
    let lines = block("sql", "BEGIN;").lines().filter(|line| !line.starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let statements: Vec<_> = text.split_inclusive(';').map(|statement| statement.trim().to_owned()).collect();
    statements.try_into().expect("there are three")
});

/// The statement that compares.
pub(crate) static ADMIT: LazyLock<String> = LazyLock::new(|| TRANSACTION[1].clone());

/// Does `work` in a transaction, if the holder is let in.
fn transaction<S: Session, T>(
    session: &mut S,
    fence: Fence,
    work: impl FnOnce(&mut S) -> T,
) -> Result<T, Refused> {
    let [begin, admit, commit] = &*TRANSACTION;
    session.batch(begin);
    if session.run(admit, &[Value::Text(LOCK), Value::Fence(fence)]).changed == 0 {
        session.batch("ROLLBACK;");
        return Err(Refused);
    }
    let done = work(session);
    session.batch(commit);
    Ok(done)
}

impl<E: Engine> Resource for RowOfTheLock<E> {
    fn user(&self) -> Box<dyn User + '_> {
        Box::new(LockUser { session: self.engine.session() })
    }
}

struct LockUser<S> {
    session: S,
}

impl<S: Session> User for LockUser<S> {
    fn write(&mut self, number: u64, fence: Fence) -> Result<(), Refused> {
        transaction(&mut self.session, fence, |session| {
            let values = [Value::Number(number), Value::Text(ID)];
            let outcome = session.run("UPDATE account SET balance = $1 WHERE id = $2", &values);
            assert_eq!(outcome, Outcome { changed: 1, returned: Vec::new() });
        })
    }

    fn read(&mut self, fence: Fence) -> Result<u64, Refused> {
        transaction(&mut self.session, fence, |session| {
            session.run("SELECT balance FROM account WHERE id = $1", &[Value::Text(ID)]).returned[0]
        })
    }
}

/// A transaction that reads one table, writes another and then the first is never torn apart by another holder's.
fn what_belongs_together_stays_together<E: Engine>(resource: &RowOfTheLock<E>) {
    const THREADS: u64 = 3;
    const TURNS: u64 = 20;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut session = resource.engine.session();
                for turn in 0..TURNS {
                    let fence = fence(turn * THREADS + thread);
                    let _ = transaction(&mut session, fence, |session| {
                        let entries = session
                            .run("SELECT balance FROM account WHERE id = $1", &[Value::Text(ID)])
                            .returned[0];
                        let entry = [Value::Number(entries), Value::Fence(fence)];
                        session.run("INSERT INTO entry (number, fence) VALUES ($1, $2)", &entry);
                        let values = [Value::Number(entries + 1), Value::Text(ID)];
                        session.run("UPDATE account SET balance = $1 WHERE id = $2", &values);
                    });
                }
            });
        }
    });
    let mut session = resource.engine.session();
    let balance = session.run("SELECT balance FROM account", &[]).returned;
    let fences = session.run("SELECT fence FROM entry ORDER BY number", &[]).returned;
    assert_eq!(balance, [fences.len() as u64]);
    assert!(fences.is_sorted() && fences.last() == Some(&fence(THREADS * TURNS - 1).as_u64()), "{fences:?}");
}

#[test]
fn what_belongs_together_stays_together_in_sqlite() {
    what_belongs_together_stays_together(&RowOfTheLock::new(File::new()));
}

#[test]
fn what_belongs_together_stays_together_in_postgres() {
    what_belongs_together_stays_together(&RowOfTheLock::new(Schema::new()));
}

/// A table that is there already is given fences; its rows let anybody in at first.
fn a_table_from_before_is_given_fences(engine: &impl Engine) {
    let mut session = engine.session();
    session.batch(&format!(
        "CREATE TABLE account (id TEXT PRIMARY KEY, balance BIGINT NOT NULL); INSERT INTO account VALUES ('{ID}', 5);"
    ));
    session.batch(block("sql", "ALTER TABLE"));
    let mut user = RowUser { session, inserts: false };
    assert_eq!(user.read(Fence::MIN), Ok(5));
    assert_eq!(user.write(6, fence(1)), Ok(()));
    assert_eq!(user.write(7, Fence::MIN), Err(Refused));
}

#[test]
fn a_table_from_before_is_given_fences_in_sqlite() {
    a_table_from_before_is_given_fences(&File::new());
}

#[test]
fn a_table_from_before_is_given_fences_in_postgres() {
    a_table_from_before_is_given_fences(&Schema::new());
}
