//! The recipes for SQL in PostgreSQL, and what only shows where two transactions are open at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use redsync_testkit::{PostgresServer, PsqlSession, wait_until};

use crate::engine::{Engine, Outcome, Session, Value};
use crate::sql::ADMIT;

/// A schema of the test's own, on a server that tests share which run at the same time.
pub(crate) struct Schema {
    server: Arc<PostgresServer>,
    name: String,
}

impl Schema {
    pub(crate) fn new() -> Self {
        static SERVER: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
        static SCHEMAS: AtomicUsize = AtomicUsize::new(0);

        let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        let server = shared.upgrade().unwrap_or_else(|| Arc::new(PostgresServer::start()));
        *shared = Arc::downgrade(&server);
        drop(shared);
        let name = format!("test{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
        server.session().batch(&format!("CREATE SCHEMA {name};"));
        Self { server, name }
    }
}

impl Engine for Schema {
    type Session<'a> = PsqlSession;

    fn session(&self) -> PsqlSession {
        let mut session = self.server.session();
        session.batch(&format!("SET search_path = {};", self.name));
        session
    }

    const AUDIT: &'static str = "
        CREATE TABLE let_in (number BIGSERIAL PRIMARY KEY, fence BIGINT NOT NULL);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO let_in (fence) VALUES (NEW.fence); RETURN NEW; END';
        CREATE TRIGGER noted AFTER INSERT OR UPDATE ON account FOR EACH ROW EXECUTE FUNCTION note();";
}

impl Session for PsqlSession {
    fn batch(&mut self, sql: &str) {
        self.run(sql).unwrap();
    }

    fn run(&mut self, statement: &str, values: &[Value<'_>]) -> Outcome {
        let printed = PsqlSession::run(self, &with_values(statement, values)).unwrap();
        let mut outcome = Outcome { changed: 0, returned: Vec::new() };
        for line in printed.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["UPDATE", count] | ["INSERT", "0", count] => outcome.changed = count.parse().unwrap(),
                [number] => outcome.returned.extend(number.parse::<u64>()),
                _ => {}
            }
        }
        outcome
    }
}

fn with_values(statement: &str, values: &[Value<'_>]) -> String {
    let values = values.iter().map(|value| match value {
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Number(number) => number.to_string(),
        Value::Fence(fence) => fence.as_i64().to_string(),
    });
    let values = values.collect::<Vec<_>>().join(", ");
    let call = if values.is_empty() { "asked".to_owned() } else { format!("asked ({values})") };
    format!(
        "DEALLOCATE ALL; PREPARE asked AS {}; EXECUTE {call};",
        statement.trim_end().trim_end_matches(';')
    )
}

/// Two sessions in which a lock's row is there, with this fence, and each has begun a transaction.
fn two_holders(schema: &Schema, isolation: &str) -> [PsqlSession; 2] {
    schema.session().batch(&format!(
        "{} INSERT INTO fence VALUES ('orders:42', 6);",
        crate::page::block("sql", "CREATE TABLE fence")
    ));
    [(); 2].map(|()| {
        let mut session = schema.session();
        session.batch(&format!("BEGIN ISOLATION LEVEL {isolation};"));
        session
    })
}

fn admit(fence: u64) -> String {
    with_values(&ADMIT, &[Value::Text("orders:42"), Value::Number(fence)])
}

/// Until a session of the server waits for another's transaction.
fn wait_until_one_waits(schema: &Schema) {
    let mut session = schema.session();
    wait_until("the second waits for the first", Duration::from_secs(10), || {
        // Others may wait at the same time, in tests of their own.
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1;";
        Session::run(&mut session, waiting, &[Value::Text(&schema.name)]).returned != [0]
    });
}

#[test]
fn a_later_holder_waits_for_the_end_of_the_transaction_of_an_earlier_one() {
    let schema = Schema::new();
    let [mut earlier, mut later] = two_holders(&schema, "READ COMMITTED");
    later.batch(&format!("SET application_name = '{}';", schema.name));

    assert!(earlier.run(&admit(7)).unwrap().contains("INSERT 0 1"));
    later.begin(&admit(8));
    wait_until_one_waits(&schema);
    earlier.batch("COMMIT;");

    assert!(later.finish().unwrap().contains("INSERT 0 1"));
    later.batch("COMMIT;");
}

#[test]
fn an_earlier_holder_that_waited_for_a_later_one_is_refused() {
    let schema = Schema::new();
    let [mut earlier, mut later] = two_holders(&schema, "READ COMMITTED");
    earlier.batch(&format!("SET application_name = '{}';", schema.name));

    assert!(later.run(&admit(8)).unwrap().contains("INSERT 0 1"));
    earlier.begin(&admit(7));
    wait_until_one_waits(&schema);
    later.batch("COMMIT;");

    assert!(earlier.finish().unwrap().contains("INSERT 0 0"));
    earlier.batch("ROLLBACK;");
}

#[test]
fn under_a_stricter_isolation_who_waited_fails_and_is_judged_when_it_repeats() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        for (second, answer) in [(7, "INSERT 0 0"), (9, "INSERT 0 1")] {
            let schema = Schema::new();
            let [mut first, mut waiting] = two_holders(&schema, isolation);
            waiting.batch(&format!("SET application_name = '{}';", schema.name));

            assert!(first.run(&admit(8)).unwrap().contains("INSERT 0 1"));
            waiting.begin(&admit(second));
            wait_until_one_waits(&schema);
            first.batch("COMMIT;");

            let failed = waiting.finish().unwrap_err();
            assert!(failed.starts_with("40001 could not serialize"), "{failed}");
            waiting.batch(&format!("ROLLBACK; BEGIN ISOLATION LEVEL {isolation};"));
            assert!(waiting.run(&admit(second)).unwrap().contains(answer), "{isolation}, {second}");
            waiting.batch("COMMIT;");
        }
    }
}
