//! Who holds, since when and until when: in words and as JSON.

use redsync::{Holder, TimeLeft};
use serde_json::{Value, json};

use crate::duration::in_words;
use crate::moment::{ago, now_in_millis, utc};
use crate::report::millis;

/// `held by web-1:20, renewing (free in 5.3 s unless renewed), asked for 3 min 2 s ago (2026-07-29T08:02:43Z)`.
pub(crate) fn in_words_of(holder: &Holder) -> String {
    let mut text = match (holder.time_left(), holder.renews()) {
        (TimeLeft::For(left), Some(true)) => {
            format!("held by {holder}, renewing (free in {} unless renewed)", in_words(left))
        }
        (TimeLeft::For(left), _) => format!("held by {holder} for another {}", in_words(left)),
        (TimeLeft::Forever, _) => {
            format!("held by {holder} for ever: its key has no expiry, and no lock of redsync's is so")
        }
        (TimeLeft::Unknown, _) => format!("held by {holder}, for an unknown time"),
    };
    if holder.renews() == Some(false) {
        text.push_str(", not renewing");
    }
    if let Some(since) = holder.since() {
        text.push_str(&format!(", asked for {}", ago(since, now_in_millis())));
    }
    text
}

/// `held by web-1:20, renewing (5.3 s left)`, for a line that has no room for more.
pub(crate) fn in_few_words(holder: &Holder) -> String {
    format!("held by {holder}, {}", left_in_words(holder))
}

/// When the lock will be free, as far as that is known. A holder that renews may be dead: then its lease ends, too.
pub(crate) fn left_in_words(holder: &Holder) -> String {
    match (holder.time_left(), holder.renews()) {
        (TimeLeft::For(left), Some(true)) => format!("renewing ({} left)", in_words(left)),
        (TimeLeft::For(left), _) => format!("{} left", in_words(left)),
        (TimeLeft::Forever, _) => "no expiry: it never ends by itself".to_owned(),
        (TimeLeft::Unknown, _) => "time left unknown".to_owned(),
    }
}

/// Adds who holds to what is said of a lock, or nulls.
///
/// `time_left_ms` is null where nobody holds, and where `expires` says why: false is for ever, null is unknown. `since_ms`, in
/// milliseconds since 1970, and `since` are when the holder asked for the lock, by its clock; `renews` is whether it renews its
/// lease. They are null for holders that use other libraries, and do not say.
pub(crate) fn add_to(object: &mut Value, holder: Option<&Holder>) {
    let left = holder.map(Holder::time_left);
    let since = holder.and_then(Holder::since);
    object["holder"] = json!(holder.map(Holder::token));
    object["owner"] = json!(holder.and_then(Holder::owner));
    object["time_left_ms"] = match left {
        Some(TimeLeft::For(left)) => millis(left),
        _ => Value::Null,
    };
    object["expires"] = match left {
        Some(TimeLeft::For(_)) => json!(true),
        Some(TimeLeft::Forever) => json!(false),
        _ => Value::Null,
    };
    object["since_ms"] = json!(since);
    object["since"] = json!(since.map(utc));
    object["renews"] = json!(holder.and_then(Holder::renews));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redsync::OwnerLabel;

    use super::*;

    fn holder(renews: Option<bool>, left: TimeLeft) -> Holder {
        let owner = OwnerLabel::new("web-1:20").unwrap();
        let token = match renews {
            Some(renews) => redsync::drawn_token(&owner, now_in_millis() - 182_000, renews),
            None => redsync::random_token(&owner),
        };
        Holder::new(token.as_str(), left)
    }

    #[test]
    fn a_lock_that_is_renewed_is_not_told_to_end() {
        let left = TimeLeft::For(Duration::from_millis(7_300));
        let renewed = in_words_of(&holder(Some(true), left));
        assert!(
            renewed
                .starts_with("held by web-1:20, renewing (free in 7.3 s unless renewed), asked for 3 min "),
            "{renewed}"
        );
        let not_renewed = in_words_of(&holder(Some(false), left));
        let begin = "held by web-1:20 for another 7.3 s, not renewing, asked for 3 min ";
        assert!(not_renewed.starts_with(begin), "{not_renewed}");
        assert_eq!(in_words_of(&holder(None, left)), "held by web-1:20 for another 7.3 s");
        assert_eq!(in_few_words(&holder(Some(true), left)), "held by web-1:20, renewing (7.3 s left)");
        assert_eq!(in_few_words(&holder(None, left)), "held by web-1:20, 7.3 s left");
    }

    #[test]
    fn json_has_what_the_token_says_and_nulls_where_it_says_nothing() {
        let mut object = json!({});
        add_to(&mut object, Some(&holder(Some(true), TimeLeft::Forever)));
        assert_eq!((&object["renews"], &object["expires"]), (&json!(true), &json!(false)));
        assert!(object["since_ms"].is_u64() && object["since"].as_str().unwrap().ends_with('Z'), "{object}");
        add_to(&mut object, Some(&holder(None, TimeLeft::Unknown)));
        for member in ["renews", "since_ms", "since", "expires", "time_left_ms"] {
            assert_eq!(object[member], Value::Null, "{member}");
        }
        assert_eq!(object["owner"], "web-1:20");
    }
}
