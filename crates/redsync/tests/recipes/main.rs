//! The recipes of `docs/fencing.md`, from the very text of the page: each lets holders in one after the other, and as often as
//! they like, and refuses those of before, reads included, whoever comes at the same time.

mod claims;
mod engine;
mod http;
mod in_process;
mod page;
mod postgres;
mod redis;
mod sql;
mod sqlite;

#[path = "../support/seed.rs"]
mod seed;

/// The claims of each kind of resource, as tests of their own.
macro_rules! claims {
    ($($resource:ident: $new:expr;)*) => {$(
        mod $resource {
            use super::*;

            #[test]
            fn holders_are_let_in_one_after_the_other() {
                claims::holders_are_let_in_one_after_the_other(&$new);
            }

            #[test]
            fn a_holder_may_come_again() {
                claims::a_holder_may_come_again(&$new);
            }

            #[test]
            fn a_late_write_is_refused_and_changes_nothing() {
                claims::a_late_write_is_refused_and_changes_nothing(&$new);
            }

            #[test]
            fn a_late_read_is_refused() {
                claims::a_late_read_is_refused(&$new);
            }

            #[test]
            fn a_read_is_remembered() {
                claims::a_read_is_remembered(&$new);
            }

            #[test]
            fn of_many_at_once_none_is_let_in_after_a_later_one() {
                claims::of_many_at_once_none_is_let_in_after_a_later_one(&$new);
            }
        }
    )*};
}

claims! {
    sqlite_row: sql::Row::update(sqlite::File::new());
    sqlite_row_that_may_be_missing: sql::Row::insert(sqlite::File::new());
    sqlite_row_of_the_lock: sql::RowOfTheLock::new(sqlite::File::new());
    postgres_row: sql::Row::update(postgres::Schema::new());
    postgres_row_that_may_be_missing: sql::Row::insert(postgres::Schema::new());
    postgres_row_of_the_lock: sql::RowOfTheLock::new(postgres::Schema::new());
    redis_hash: redis::Hash::new();
    http_service: http::Bank::new();
    fence_check: in_process::InProcess::new();
}
