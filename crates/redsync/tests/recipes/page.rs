//! The page, and the code on it.

const PAGE: &str = include_str!("../../../../docs/fencing.md");

/// The one block in `language` that begins with `start`, as it stands on the page.
#[track_caller]
pub(crate) fn block(language: &str, start: &str) -> &'static str {
    let found: Vec<_> = blocks().filter(|block| block.0 == language && block.1.starts_with(start)).collect();
    assert_eq!(found.len(), 1, "blocks in {language} that begin with {start:?}");
    found[0].1
}

fn blocks() -> impl Iterator<Item = (&'static str, &'static str)> {
    // Every second part is inside of a block.
    PAGE.split("```")
        .skip(1)
        .step_by(2)
        .map(|block| block.split_once('\n').expect("a language, and the code"))
}

#[test]
fn nothing_is_on_the_page_that_no_test_reads() {
    let mut starts: Vec<_> =
        blocks().map(|(language, code)| format!("{language}: {}", code.lines().next().unwrap())).collect();
    starts.retain(|start| !start.starts_with("text: "));
    assert_eq!(
        starts,
        [
            "rust: let guard = redsync.mutex(\"orders:42\").fenced().lock().await?;",
            "sql: CREATE TABLE account (id TEXT PRIMARY KEY, balance BIGINT NOT NULL, fence BIGINT NOT NULL);",
            "sql: ALTER TABLE account ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;",
            "sql: UPDATE account SET balance = $1, fence = $2 WHERE id = $3 AND fence <= $2;",
            "sql: UPDATE account SET fence = $1 WHERE id = $2 AND fence <= $1 RETURNING balance;",
            "sql: INSERT INTO account (id, balance, fence) VALUES ($1, $2, $3)",
            "sql: CREATE TABLE fence (lock TEXT PRIMARY KEY, highest BIGINT NOT NULL);",
            "sql: BEGIN;",
            "lua: if not string.match(ARGV[1], '^%d+$') then",
            "sh: redis-cli --eval fenced.lua account:7 , 1700000000000000 balance 110",
            "http: PUT /accounts/7 HTTP/1.1",
            "http: HTTP/1.1 412 Precondition Failed",
            "http: HTTP/1.1 428 Precondition Required",
            "rust: struct Account {",
        ]
    );
}
