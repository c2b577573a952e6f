//! Bounded random tests: a parser is given inputs that are mutations of a small corpus.
//!
//! A run depends on its seed alone. An input that makes the target panic is printed in the corpus's own spelling, so that
//! it can be appended there.

use std::time::{Duration, Instant};

/// How many inputs each target is given; 20,000 unless set.
pub const INPUTS_VARIABLE: &str = "REDSYNC_FUZZ_INPUTS";

/// The seed of all targets; drawn from the clock unless set.
pub const SEED_VARIABLE: &str = "REDSYNC_FUZZ_SEED";

/// Gives `target` each entry of `corpus`, and then as many mutations of them as [`INPUTS_VARIABLE`] says. Prints how many
/// inputs there were, and the seed.
///
/// `corpus` has one entry in each line, spelled as Rust spells byte strings. Lines that begin with `#` are comments. Without
/// [`INPUTS_VARIABLE`], a target that is slow is ended after two seconds.
///
/// # Panics
///
/// As `target` does, after the input was printed; and on a variable that is no number.
pub fn fuzz(name: &str, corpus: &str, mut target: impl FnMut(&[u8])) {
    let (number, seed) = (variable(INPUTS_VARIABLE), variable(SEED_VARIABLE).unwrap_or_else(clock));
    let inputs = number.unwrap_or(QUICK);
    let seeds = entries(corpus);
    assert!(!seeds.is_empty(), "the corpus of {name} is empty");
    let began = Instant::now();
    let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    let mut input = Vec::new();
    let mut given = 0;
    while given < inputs {
        input.clear();
        match usize::try_from(given).ok().and_then(|given| seeds.get(given)) {
            Some(seed) => input.extend_from_slice(seed),
            None => mutate(&seeds, &mut random, &mut input),
        }
        let culprit = Culprit { name, seed, number: given, input: &input };
        target(&input);
        std::mem::forget(culprit);
        given += 1;
        if number.is_none() && given % 256 == 0 && began.elapsed() > QUICK_TIME {
            break;
        }
    }
    println!(
        "fuzz: {name}: {given} inputs in {:.1} s, {SEED_VARIABLE}={seed}",
        began.elapsed().as_secs_f32()
    );
}

const QUICK: u64 = 20_000;
const QUICK_TIME: Duration = Duration::from_secs(2);

/// No input is longer than this: limits of names and tokens are 1,024 and 512 bytes.
const LONGEST: usize = 4_096;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn clock() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs()
}

/// The input that is being tried. Dropped, the target panicked.
struct Culprit<'a> {
    name: &'a str,
    seed: u64,
    number: u64,
    input: &'a [u8],
}

impl Drop for Culprit<'_> {
    fn drop(&mut self) {
        let Self { name, seed, number, input } = self;
        eprintln!(
            "fuzz: {name}: input {number} of {SEED_VARIABLE}={seed}; for the corpus:\n{}",
            input.escape_ascii()
        );
    }
}

/// The corpus's lines, unescaped.
fn entries(corpus: &str) -> Vec<Vec<u8>> {
    corpus.lines().filter(|line| !line.starts_with('#')).map(unescaped).collect()
}

fn unescaped(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let (b'\\', Some((&kind, after))) = (first, after.split_first()) else {
            bytes.push(first);
            continue;
        };
        rest = after;
        bytes.push(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = rest.get(2..).unwrap_or_default();
                byte.unwrap_or_else(|| panic!("a broken \\x in the corpus: {line}"))
            }
            other => other,
        });
    }
    bytes
}

/// One to eight changes to an entry of the corpus; or, now and then, nothing but noise.
fn mutate(seeds: &[Vec<u8>], random: &mut Random, input: &mut Vec<u8>) {
    if random.below(32) == 0 {
        input.extend((0..random.below(64)).map(|_| random.byte()));
        return;
    }
    input.extend_from_slice(&seeds[random.below(seeds.len())]);
    for _ in 0..=random.below(8) {
        let (at, end) = random.range(input.len());
        match random.below(12) {
            0 if at < end => input[at] = random.byte(),
            1 if at < end => input[at] ^= 1 << random.below(8),
            2 => input.insert(at, random.byte()),
            3 | 4 => {
                let special = SPECIAL[random.below(SPECIAL.len())];
                drop(input.splice(at..at, special.iter().copied()));
            }
            5 => drop(input.drain(at..end)),
            6 => input.truncate(at),
            7 => {
                let copy = input[at..end].to_vec();
                drop(input.splice(at..at, copy));
            }
            8 => {
                let other = &seeds[random.below(seeds.len())];
                let (from, to) = random.range(other.len());
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            9 | 10 => {
                let number = number_in(input, at);
                let other = NUMBERS[random.below(NUMBERS.len())];
                drop(input.splice(number, other.bytes()));
            }
            _ if random.below(16) == 0 && at < end => {
                let run = vec![input[at]; random.below(1_200)];
                drop(input.splice(at..at, run));
            }
            _ => {}
        }
        input.truncate(LONGEST);
    }
}

/// The first digits at or after `at`; nothing at its end if there are none.
fn number_in(input: &[u8], at: usize) -> std::ops::Range<usize> {
    let from = input[at..].iter().position(u8::is_ascii_digit).map_or(input.len(), |from| at + from);
    let digits = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    from..from + digits
}

const NUMBERS: [&str; 16] = [
    "0",
    "-0",
    "1",
    "-1",
    "00",
    "+1",
    "1e309",
    "nan",
    "2147483648",
    "9007199254740991",
    "9007199254740993",
    "-9007199254740992",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999",
];

const SPECIAL: [&[u8]; 28] = [
    b":",
    b"/",
    b"//",
    b"@",
    b"?",
    b"#",
    b"%",
    b"%00",
    b"%2",
    b"%ff",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"\\",
    b" ",
    b"\t",
    b"\r\n",
    b"\0",
    b"\x1b[31m",
    b"\x7f",
    b"&",
    b".",
    b"\xc3\xa9",
    "É".as_bytes(),
    "\u{202e}".as_bytes(),
    b"\xff",
];

/// Marsaglia's xorshift64*, since nothing here needs better.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = if self.0 == 0 { 1 } else { self.0 };
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// A number below `limit`; 0 where that is 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() as usize).checked_rem(limit).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// A part of what has this length; most are short.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let at = self.below(length + 1);
        let most = if self.below(4) == 0 { length } else { 8 };
        (at, (at + self.below(most + 1)).min(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_read_back_from_the_corpus_as_it_was_printed() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(entries(&all.escape_ascii().to_string()), [all]);
        assert_eq!(entries("# a comment\na\\r\\n\n"), [b"a\r\n".to_vec()]);
    }

    #[test]
    fn a_seed_gives_the_same_inputs_again_and_most_of_them_differ() {
        let seeds = entries("redsync:8000:orders:5f1c\nfreed:x");
        let inputs = |seed| {
            let mut random = Random(seed);
            let one = |_| {
                let mut input = Vec::new();
                mutate(&seeds, &mut random, &mut input);
                input
            };
            (0..1_000).map(one).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        let mut different = inputs(8);
        different.sort();
        different.dedup();
        assert!(different.len() > 900, "{}", different.len());
    }
}
