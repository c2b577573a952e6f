//! What the file holds, and how files of former versions come to hold it.

use rusqlite::{Connection, TransactionBehavior};

/// The version that this redsync reads and writes.
pub(super) const VERSION: i64 = 3;

/// Brings the file to [`VERSION`], with all leases that it holds, and says which version it has: another one if it is
/// newer, and then it was left alone.
///
/// What has run out is skipped wherever it is met; here it is swept up.
pub(super) fn prepare(
    connection: &mut Connection,
    boot: &str,
    now: i64,
    wall_micros: i64,
) -> rusqlite::Result<i64> {
    let version = |connection: &Connection| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    let newer = version(connection)?;
    if newer > VERSION {
        return Ok(newer);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Others may have brought it further while this one waited for its turn.
    let present = version(&transaction)?;
    for (former, step) in (0..).zip(STEPS) {
        if present <= former {
            transaction.execute_batch(step)?;
        }
    }
    if present <= VERSION {
        transaction.execute("DELETE FROM redsync_leases WHERE ends <= ?1 OR boot <> ?2", (now, boot))?;
        transaction.execute("DELETE FROM redsync_line WHERE deadline <= ?1 OR boot <> ?2", (now, boot))?;
        transaction.execute("DELETE FROM redsync_fences WHERE kept_until <= ?1", [wall_micros])?;
        transaction.commit()?;
    }
    Ok(present.max(VERSION))
}

/// From each version to the next.
const STEPS: [&str; VERSION as usize] = [LEASES, LINE, FENCES];

/// `granted` and `ends` are nanoseconds of the boot time clock, `boot` the boot they belong to.
const LEASES: &str = "
CREATE TABLE IF NOT EXISTS redsync_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT OR IGNORE INTO redsync_meta VALUES ('identity', lower(hex(randomblob(16))));
CREATE TABLE IF NOT EXISTS redsync_leases (
    name TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    granted INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    boot TEXT NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// A lease has a `round` from when it was handed over until its holder asks for something: somebody is to be told of it.
/// A process of the former version that still has the file open writes leases without.
///
/// In queue, `expiry` is in nanoseconds, `deadline` and `freed` are nanoseconds of the boot time clock. `freed` is when the
/// lock was let go of, where this is the one who is to be told. `namespace`, `pid` and `begun` say which process waits.
/// `redsync_lengths` spares counting.
const LINE: &str = "
ALTER TABLE redsync_leases ADD COLUMN round INTEGER;
CREATE INDEX redsync_leases_handed_over ON redsync_leases (granted) WHERE round IS NOT NULL;
CREATE TABLE redsync_line (
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    ticket INTEGER NOT NULL,
    round INTEGER NOT NULL,
    expiry INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    boot TEXT NOT NULL,
    client TEXT NOT NULL,
    namespace INTEGER,
    pid INTEGER NOT NULL,
    begun INTEGER,
    freed INTEGER,
    PRIMARY KEY (name, token)
) STRICT, WITHOUT ROWID;
CREATE INDEX redsync_line_order ON redsync_line (name, ticket, token);
CREATE INDEX redsync_line_freed ON redsync_line (freed) WHERE freed IS NOT NULL;
CREATE TABLE redsync_lengths (name TEXT PRIMARY KEY, waiting INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TRIGGER redsync_line_entered AFTER INSERT ON redsync_line BEGIN
    INSERT INTO redsync_lengths VALUES (new.name, 1) ON CONFLICT (name) DO UPDATE SET waiting = waiting + 1;
END;
CREATE TRIGGER redsync_line_left AFTER DELETE ON redsync_line BEGIN
    UPDATE redsync_lengths SET waiting = waiting - 1 WHERE name = old.name;
    DELETE FROM redsync_lengths WHERE name = old.name AND waiting = 0;
END;
PRAGMA user_version = 2;
";

/// `kept_until` is in microseconds since 1970: counters outlive boots. In queue, `proposal` is the fence that is asked for, and
/// `retention` in microseconds. A lease that was handed over has the fence that its holder is to be told of.
const FENCES: &str = "
CREATE TABLE redsync_fences (
    name TEXT PRIMARY KEY,
    fence INTEGER NOT NULL,
    kept_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX redsync_fences_kept ON redsync_fences (kept_until);
ALTER TABLE redsync_leases ADD COLUMN fence INTEGER;
ALTER TABLE redsync_line ADD COLUMN proposal INTEGER;
ALTER TABLE redsync_line ADD COLUMN retention INTEGER;
PRAGMA user_version = 3;
";
