//! Who a server is told that we are, and what it must not be quoted with.

use std::borrow::Cow;
use std::fmt::Write;

/// The user and the password of a URL.
#[derive(Clone, Default)]
pub(crate) struct Account {
    user: Option<String>,
    /// The password as it may stand in a server's words: plain, percent-encoded, escaped.
    secrets: Vec<String>,
}

impl Account {
    /// `encoded` is the password as the URL has it.
    pub(super) fn new(user: Option<&str>, password: Option<&str>, encoded: Option<&str>) -> Self {
        let mut secrets: Vec<String> = Vec::new();
        let forms = password.into_iter().flat_map(forms_of).chain(encoded.map(str::to_owned));
        for form in forms.filter(|form| !form.is_empty()) {
            if !secrets.contains(&form) {
                secrets.push(form);
            }
        }
        Self { user: user.map(str::to_owned), secrets }
    }

    /// The user's name on the server.
    pub(super) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("default")
    }

    /// Whether the URL names a user other than the default one, whose permissions may be few.
    pub(super) fn names_a_user(&self) -> bool {
        self.user.as_deref().is_some_and(|user| user != "default")
    }

    /// `text` without the password, also where the server quotes only its beginning. Nothing of the text is left where a
    /// password is so short that it may stand anywhere by chance.
    pub(super) fn blank<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.secrets.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut blanked = String::new();
        let (mut rest, mut is_changed) = (text, false);
        while let Some(letter) = rest.chars().next() {
            let quoted = self.secrets.iter().map(|secret| quoted_at_start(rest, secret)).max();
            match quoted {
                Some(length @ 1..) if length < SHORT => return Cow::Borrowed(WITHHELD),
                Some(length @ 1..) => {
                    blanked.push_str(BLANK);
                    rest = &rest[length..];
                    is_changed = true;
                }
                _ => {
                    blanked.push(letter);
                    rest = &rest[letter.len_utf8()..];
                }
            }
        }
        if is_changed { Cow::Owned(blanked) } else { Cow::Borrowed(text) }
    }
}

/// How many bytes at the beginning of `text` are `secret`, or so much of its beginning that it is no accident.
fn quoted_at_start(text: &str, secret: &str) -> usize {
    let same = text.chars().zip(secret.chars()).take_while(|(a, b)| a.eq_ignore_ascii_case(b));
    let length: usize = same.map(|(letter, _)| letter.len_utf8()).sum();
    if length == secret.len() || length >= TELLING { length } else { 0 }
}

/// How a server, or a program between, may write down what it was sent.
fn forms_of(password: &str) -> [String; 5] {
    let (mut percent, mut all_percent, mut escaped) = (String::new(), String::new(), String::new());
    for byte in password.bytes() {
        // Into memory: it cannot fail.
        let _ = write!(all_percent, "%{byte:02X}");
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                percent.push(char::from(byte));
            }
            _ => _ = write!(percent, "%{byte:02X}"),
        }
        // As Redis quotes arguments.
        match byte {
            b'\\' | b'"' => escaped.extend(['\\', char::from(byte)]),
            b'\n' => escaped.push_str("\\n"),
            b'\r' => escaped.push_str("\\r"),
            b'\t' => escaped.push_str("\\t"),
            0x07 => escaped.push_str("\\a"),
            0x08 => escaped.push_str("\\b"),
            0x20..=0x7e => escaped.push(char::from(byte)),
            _ => _ = write!(escaped, "\\x{byte:02x}"),
        }
    }
    [password.to_owned(), percent, all_percent, escaped, password.escape_debug().to_string()]
}

const BLANK: &str = "***";
const WITHHELD: &str = "its words are withheld: they may hold the password";

/// Fewer bytes than this stand in many a word.
const SHORT: usize = 4;

/// So many bytes of a password's beginning are taken for a quote.
const TELLING: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_blanked_in_every_form() {
        let account = Account::new(None, Some("hunter2/é\"x"), Some("hunter2%2f%C3%A9%22x"));
        for quoted in [
            "hunter2/é\"x",
            "hunter2%2f%C3%A9%22x",
            "HUNTER2%2F%c3%a9%22X",
            "hunter2/\\xc3\\xa9\\\"x",
            "hunter2/é\\\"x",
            "%68%75%6E%74%65%72%32%2F%C3%A9%22%78",
            "hunter2/é",
        ] {
            let said = format!("WRONGPASS '{quoted}' is not it");
            assert_eq!(account.blank(&said), "WRONGPASS '***' is not it", "{quoted}");
        }
        assert_eq!(account.blank("hunter is a word"), "hunter is a word");
    }

    #[test]
    fn a_long_password_is_blanked_where_only_its_beginning_is_quoted() {
        let password = "0123456789".repeat(20);
        let account = Account::new(None, Some(&password), None);
        assert_eq!(account.blank(&format!("ERR '{}' 'b'", &password[..128])), "ERR '***' 'b'");
    }

    #[test]
    fn words_in_which_a_short_password_stands_are_withheld() {
        let account = Account::new(None, Some("ab"), None);
        assert_eq!(account.blank("ERR what is 'ab'?"), WITHHELD);
        assert_eq!(account.blank("ERR cdef"), "ERR cdef");
    }
}
