// SPDX-License-Identifier: GPL-2.0

//! Paths of request targets, and the ways in which servers read them.
//!
//! The node that routes a request sees the path as the client wrote it; the server that answers
//! makes something of it first. Where the two disagree, a request could be routed by one rule and
//! served as if under another. So a path is compared decoded (`%66` is `f`: RFC 3986, section
//! 6.2.2.2), and what servers do *not* agree on is met in two ways:
//!
//! - What no client sends that means well is refused by [`check`]: dot segments, encoded or not
//!   (clients resolve them: RFC 3986, section 5.2.4; `.;x` counts, since servers that know path
//!   parameters cut them off first), a `%` without two hexadecimal digits, `%00`, a backslash, a
//!   fragment.
//! - What does occur has several [`Reading`]s: whether adjacent slashes are one, whether `%2F` is
//!   a slash, whether `;x` belongs to its segment. [`crate::rule::route`] goes by a path only if
//!   all readings lead to the same place.
//!
//! Only one decoding is ever made: `%252e` is the text `%2e`.

use crate::class::Class;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// A segment that is `.` or `..` in some reading.
    DotSegment,
    /// A `%` that encodes nothing, or NUL.
    Percent,
    /// A byte that no path has: a backslash, a `#`, a space or a control character.
    Byte,
}

/// One byte of a path, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Char {
    /// The byte.
    byte: u8,
    /// Whether it was encoded.
    encoded: bool,
}

/// Decodes a path once; a `%` that encodes nothing stands for itself.
#[derive(Clone, Debug)]
struct Decode<'a> {
    /// What is left.
    rest: &'a [u8],
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    // CAST: a digit is below 16.
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

impl Iterator for Decode<'_> {
    type Item = Char;

    fn next(&mut self) -> Option<Char> {
        if let [b'%', high, low, rest @ ..] = self.rest {
            if let (Some(high), Some(low)) = (hex(*high), hex(*low)) {
                self.rest = rest;
                return Some(Char {
                    byte: (high << 4) | low,
                    encoded: true,
                });
            }
        }
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(Char {
            byte,
            encoded: false,
        })
    }
}

/// How far a segment is from being a dot segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    /// Nothing yet.
    None,
    /// `.`
    One,
    /// `..`
    Two,
    /// It is none.
    No,
}

/// Whether nothing of a path can be read in two ways, as with most: it has segments of letters, digits and
/// what means nothing else, none of them empty or with a dot in front. [`check`] holds for it, and it has the
/// plain [`Reading`] only.
pub(crate) fn is_plain(path: &[u8]) -> bool {
    let mut before = Class::Slash;
    path.split_first().is_some_and(|(&first, rest)| {
        first == b'/'
            && rest.iter().all(|&byte| {
                let class = Class::of(byte);
                let may = match class {
                    Class::Name | Class::Tilde => true,
                    Class::Dot | Class::Slash => before != Class::Slash,
                    Class::Other => false,
                };
                before = class;
                may
            })
    })
}

/// Refuses a path that servers would read in ways too different to route by it.
pub fn check(path: &[u8]) -> Result<(), BadPath> {
    match is_plain(path) {
        true => Ok(()),
        false => checked(path),
    }
}

/// [`check`] of any path.
fn checked(path: &[u8]) -> Result<(), BadPath> {
    let mut dots = Dots::None;
    for char in (Decode { rest: path }) {
        match (char.byte, char.encoded) {
            (b'%', false) | (0, true) => return Err(BadPath::Percent),
            (0..=b' ' | b'#' | b'\\' | 0x7f, false) => return Err(BadPath::Byte),
            _ => {}
        }
        dots = match (char.byte, dots) {
            // An encoded backslash parts segments for nobody who matters; let it part them here.
            // What stands behind `;` is cut off by some.
            (b'/' | b'\\' | b';', Dots::One | Dots::Two) => return Err(BadPath::DotSegment),
            (b'/' | b'\\', _) => Dots::None,
            (b'.', Dots::None) => Dots::One,
            (b'.', Dots::One) => Dots::Two,
            _ => Dots::No,
        };
    }
    match dots {
        Dots::One | Dots::Two => Err(BadPath::DotSegment),
        Dots::None | Dots::No => Ok(()),
    }
}

/// A way to read a path: a set of the bits below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading(u8);

impl Reading {
    /// How many readings there are.
    pub(crate) const COUNT: usize = 8;

    /// Adjacent slashes are one.
    const MERGE: u8 = 1;
    /// `%2F` is a slash; otherwise it is nothing that a rule can name.
    const SLASH: u8 = 2;
    /// From `;` to the end of its segment nothing counts.
    const CUT: u8 = 4;

    /// The readings in which `path` may not be the same, the plain one among them.
    pub(crate) fn all_of(path: &[u8]) -> impl Iterator<Item = Self> + Clone {
        let mut vary = 0;
        let mut last = 0;
        for char in (Decode { rest: path }) {
            match (char.byte, char.encoded) {
                (b'/', true) => vary |= Self::SLASH | Self::MERGE,
                (b'/', false) if last == b'/' => vary |= Self::MERGE,
                // Cutting may bring slashes together.
                (b';', false) => vary |= Self::CUT | Self::MERGE,
                _ => {}
            }
            last = char.byte;
        }
        (0..8).map(Self).filter(move |r| r.0 & !vary == 0)
    }

    /// The place of this reading among [`Self::COUNT`].
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether `path`, read this way, begins with `prefix`.
    pub(crate) fn starts_with(self, path: &[u8], prefix: &[u8]) -> bool {
        let mut prefix = prefix.iter();
        let mut want = prefix.next();
        let mut slash_before = false;
        let mut cutting = false;
        for char in (Decode { rest: path }) {
            let Some(&byte) = want else {
                return true;
            };
            let is_slash = char.byte == b'/' && (!char.encoded || self.0 & Self::SLASH != 0);
            if is_slash {
                cutting = false;
            } else if char.byte == b';' && !char.encoded && self.0 & Self::CUT != 0 {
                cutting = true;
            }
            if cutting || (is_slash && slash_before && self.0 & Self::MERGE != 0) {
                continue;
            }
            slash_before = is_slash;
            if char.byte != byte || (char.byte == b'/') != is_slash {
                return false;
            }
            want = prefix.next();
        }
        want.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn paths_are_checked() {
        let good: [&[u8]; 16] = [
            b"/",
            b"",
            b"*",
            b"/fr/",
            b"/fr/a.b/..c/.d/...",
            b"/a%20b",
            b"/%e4%BD%A0",
            b"/n\xc3\xa9",
            b"//a//b",
            b"/a%2Fb",
            b"/a;v=1/b",
            b"/a;..",
            b"/%252e%252e/",
            b"/a%5Cb",
            b"/a[1]|b",
            b"/.well-known/x",
        ];
        for path in good {
            assert_eq!(check(path), Ok(()), "{}", path.escape_ascii());
        }
        use BadPath::*;
        let bad: [(&[u8], BadPath); 26] = [
            (b"/fr/../x", DotSegment),
            (b"/fr/./x", DotSegment),
            (b"/..", DotSegment),
            (b"/.", DotSegment),
            (b"/fr/%2e%2e/x", DotSegment),
            (b"/fr/.%2E/x", DotSegment),
            (b"/fr/%2e", DotSegment),
            (b"/fr/..%2Fx", DotSegment),
            (b"/fr%2F../x", DotSegment),
            (b"/fr%2f..%2fx", DotSegment),
            (b"/fr/..;a=1/x", DotSegment),
            (b"/fr/..%3ba/x", DotSegment),
            (b"/fr/..%5cx", DotSegment),
            (b"/fr%5c..", DotSegment),
            (b"..", DotSegment),
            (b"/%", Percent),
            (b"/%4", Percent),
            (b"/%zz", Percent),
            (b"/%%41", Percent),
            (b"/%00", Percent),
            (b"/a\\b", Byte),
            (b"/a#b", Byte),
            (b"/a b", Byte),
            (b"/a\tb", Byte),
            (b"/a\x7f", Byte),
            (b"/a\0", Byte),
        ];
        for (path, why) in bad {
            assert_eq!(check(path), Err(why), "{}", path.escape_ascii());
        }
    }

    #[test]
    fn paths_that_are_plain_are_so_for_all_else() {
        let plain: [&[u8]; 7] = [
            b"/",
            b"/a",
            b"/a/",
            b"/a.b/c-d_e~f",
            b"/a..",
            b"/a./b",
            b"/fr/A.html",
        ];
        assert!(plain.iter().all(|path| is_plain(path)));
        let others: [&[u8]; 12] = [
            b"",
            b"*",
            b"a",
            b".",
            b"//",
            b"/.",
            b"/a/.b",
            b"/a//b",
            b"/a;b",
            b"/%61",
            b"/a b",
            b"/n\xc3\xa9",
        ];
        assert!(!others.iter().any(|path| is_plain(path)));
    }

    proptest! {
        #[test]
        fn a_plain_path_has_one_reading(path in "[/.a%;2f~-]{0,12}", prefix in "/[/.a~-]{0,3}") {
            let (path, prefix) = (path.as_bytes(), prefix.as_bytes());
            if is_plain(path) {
                prop_assert_eq!(checked(path), Ok(()));
                prop_assert_eq!(Reading::all_of(path).count(), 1);
                prop_assert_eq!(Reading(0).starts_with(path, prefix), path.starts_with(prefix));
            }
        }
    }

    #[test]
    fn readings_differ_only_where_servers_do() {
        let count = |path: &[u8]| Reading::all_of(path).count();
        assert_eq!(count(b"/fr/a.html"), 1);
        assert_eq!(count(b"/%66r/a%20b"), 1);
        assert_eq!(count(b"/a//b"), 2);
        assert_eq!(count(b"/a%2Fb"), 4);
        assert_eq!(count(b"/a;b"), 4);
        assert_eq!(count(b"/a;b%2f"), 8);
        assert_eq!(count(b"/a%3bb"), 1);
        let all: Vec<_> = Reading::all_of(b"/;%2f").map(Reading::index).collect();
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn prefixes_are_found_in_each_reading() {
        const PLAIN: u8 = 0;
        const M: u8 = Reading::MERGE;
        const S: u8 = Reading::SLASH;
        const C: u8 = Reading::CUT;
        let cases: [(u8, &[u8], &[u8], bool); 26] = [
            (PLAIN, b"/fr/x", b"/fr/", true),
            (PLAIN, b"/fr", b"/fr/", false),
            (PLAIN, b"/fr", b"/fr", true),
            (PLAIN, b"/french", b"/fr", true),
            (PLAIN, b"/%66r/x", b"/fr/", true),
            (PLAIN, b"/f%72", b"/fr", true),
            (PLAIN, b"/n%C3%A9", b"/n\xc3\xa9", true),
            (PLAIN, b"/n\xc3\xa9", b"/n\xc3\xa9", true),
            (PLAIN, b"/FR/", b"/fr/", false),
            (PLAIN, b"/%2566r/", b"/fr/", false),
            (PLAIN, b"", b"", true),
            (PLAIN, b"*", b"", true),
            (PLAIN, b"*", b"/", false),
            (PLAIN, b"//fr/", b"/fr/", false),
            (M, b"//fr/", b"/fr/", true),
            (M, b"/fr///x", b"/fr/x", true),
            (PLAIN, b"/fr%2Fx", b"/fr/", false),
            (PLAIN, b"/fr%2Fx", b"/fr", true),
            (S, b"/fr%2fx", b"/fr/x", true),
            (S, b"/fr%2f/x", b"/fr/x", false),
            (S | M, b"/fr%2f/x", b"/fr/x", true),
            (PLAIN, b"/fr;a/x", b"/fr/", false),
            (C, b"/fr;a/x", b"/fr/x", true),
            (C, b"/fr%3ba/x", b"/fr/", false),
            (C | M, b"/;a/fr", b"/fr", true),
            (C, b"/fr;a", b"/fr/", false),
        ];
        for (reading, path, prefix, expected) in cases {
            let found = Reading(reading).starts_with(path, prefix);
            assert_eq!(found, expected, "{reading} {}", path.escape_ascii());
        }
    }
}
