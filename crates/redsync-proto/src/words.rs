//! Text that others wrote, made fit for a message: a server's replies, tokens of other programs.
//!
//! The only place that escapes and shortens such text. The library's `NodeFault` passes every message through
//! [`clean`], and so does all else that is shown of what a server says.

use alloc::string::String;

/// `text` on one line and of `most` characters at most, for a terminal, a log or a message.
///
/// Control characters, and those that change how a terminal shows its queue, are escaped as in Rust (`\u{1b}`, `\n`).
/// Quotes and backslashes stay, so that cleaning twice changes nothing.
pub fn clean(text: &str, most: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(most));
    let mut left = most;
    for letter in text.chars() {
        let escaped = match letter {
            '"' | '\'' | '\\' => None,
            // Combining characters belong to the letter before them.
            letter if letter.is_control() || !is_shown(letter) => Some(letter.escape_default()),
            _ => None,
        };
        let length = escaped.as_ref().map_or(1, ExactSizeIterator::len);
        if length > left {
            cleaned.push('…');
            break;
        }
        left -= length;
        match escaped {
            Some(escaped) => cleaned.extend(escaped),
            None => cleaned.push(letter),
        }
    }
    cleaned
}

/// False of characters without a shape of their own that move or hide what stands around them.
const fn is_shown(letter: char) -> bool {
    !matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_is_more_than_text() {
        let hostile = "a\u{1b}[2Jb\u{7}c\nd\re\tf\u{9b}31mg\u{202e}h\u{2028}i\u{0}";
        let cleaned = clean(hostile, 1000);
        assert_eq!(cleaned, r"a\u{1b}[2Jb\u{7}c\nd\re\tf\u{9b}31mg\u{202e}h\u{2028}i\u{0}");
        assert_eq!(clean(&cleaned, 1000), cleaned, "cleaning twice changes nothing");
    }

    #[test]
    fn ordinary_text_of_any_language_stays_as_it_is() {
        let text = r#"ERR unknown command 'x', "zürich" \ 東京 é"#;
        assert_eq!(clean(text, 1000), text);
    }

    #[test]
    fn long_text_is_cut_and_no_escape_is_cut_in_two() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abcdef…");
        assert_eq!(clean("abc\u{1b}d", 6), "abc…");
        assert_eq!(clean(&"x".repeat(3_000_000), 10), "xxxxxxxxxx…");
    }
}
