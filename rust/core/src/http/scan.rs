// SPDX-License-Identifier: GPL-2.0

//! Finding the end of a head that comes in pieces.

use super::Bad;

/// The longest method that is looked for. Real ones have at most 17 letters.
pub(super) const MAX_METHOD: usize = 32;

/// Where in a head the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the method.
    #[default]
    Method,
    /// In a line.
    Line,
    /// Behind the CR of a line.
    LineCr,
    /// Before a header line or the last, empty one.
    Start,
    /// Behind the CR of the empty line.
    LastCr,
    /// Behind the head.
    End,
    /// Refused.
    Refused(Bad),
}

/// How far a head has been looked at. Each byte is looked at once, in however many pieces a
/// client sends them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// How many bytes have been looked at.
    pos: usize,
    /// Where the next one stands.
    state: State,
}

/// What a [`Scan`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// The head goes on.
    Partial,
    /// The head has this length, the empty line included.
    Head(usize),
    /// It is none, whatever may follow.
    Bad(Bad),
}

impl Scan {
    /// The scan of a head of which nothing has come.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pos: 0,
            state: State::Method,
        }
    }

    /// Looks at what has come since the last time. `bytes` are all that have come, from the
    /// head's first byte on.
    pub fn advance(&mut self, bytes: &[u8]) -> Scanned {
        let mut rest = bytes.get(self.pos..).unwrap_or(&[]);
        let at = |rest: &[u8]| bytes.len().saturating_sub(rest.len());
        while let Some((&byte, tail)) = rest.split_first() {
            rest = match (self.state, rest) {
                (State::End | State::Refused(_), _) => break,
                // Most bytes of a line neither end nor spoil it, and what ends it is mostly followed by the
                // name of a header.
                (State::Line, _) => match rest.get(plain(rest)..).unwrap_or(&[]) {
                    [b'\r', b'\n', b'!'..=b'~', next @ ..] => next,
                    [b'\r', b'\n', next @ ..] => {
                        self.state = State::Start;
                        next
                    }
                    [odd, next @ ..] => {
                        self.state = self.next(*odd, at(rest));
                        next
                    }
                    [] => &[],
                },
                // Most requests.
                (State::Method, [b'G', b'E', b'T', b' ', next @ ..]) if at(rest) == 0 => {
                    self.state = State::Line;
                    next
                }
                _ => {
                    self.state = self.next(byte, at(rest));
                    tail
                }
            };
        }
        self.pos = self.pos.max(at(rest));
        match self.state {
            State::End => Scanned::Head(self.pos),
            State::Refused(bad) => Scanned::Bad(bad),
            _ => Scanned::Partial,
        }
    }

    /// Where the byte behind `byte` stands, which is that at `pos`.
    fn next(&self, byte: u8, pos: usize) -> State {
        match (self.state, byte) {
            (State::Method, b' ') if pos > 0 => State::Line,
            (State::Method, b'\r' | b'\n') if pos == 0 => State::Refused(Bad::EmptyLine),
            (State::Method, _) if is_token(byte) && pos < MAX_METHOD => State::Method,
            (State::Method, _) => State::Refused(Bad::Method),

            (State::LineCr, b'\n') => State::Start,
            (State::LastCr, b'\n') => State::End,
            (State::LineCr | State::LastCr, _) => State::Refused(Bad::BareCr),
            (State::Start, b'\r') => State::LastCr,
            (State::Start, b' ' | b'\t') => State::Refused(Bad::ObsFold),
            (State::Line, b'\r') => State::LineCr,
            (_, b'\n') => State::Refused(Bad::BareLf),
            (_, b'\t') => State::Line,
            (_, 0..=0x1f | 0x7f) => State::Refused(Bad::Control),
            (State::End | State::Refused(_), _) => self.state,
            (State::Line | State::Start, _) => State::Line,
        }
    }
}

/// How many bytes come before the first control character, eight of them looked at at a time.
fn plain(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let mut before: usize = 0;
    for word in bytes.chunks_exact(8) {
        // A chunk has eight bytes.
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        let delete = word ^ (EACH * 0x7f);
        // The uppermost bit of a byte is set where it was below what is subtracted. The first one that
        // is set is right; above it a borrow may have come from below.
        let odd = (word.wrapping_sub(EACH * 0x20) & !word) | (delete.wrapping_sub(EACH) & !delete);
        let odd = odd & (EACH * 0x80);
        if odd != 0 {
            // CAST: A small number.
            return before.saturating_add(odd.trailing_zeros() as usize / 8);
        }
        before = before.saturating_add(8);
    }
    let rest = bytes.get(before..).unwrap_or(&[]);
    let odd = rest.iter().position(|&byte| byte < b' ' || byte == 0x7f);
    before.saturating_add(odd.unwrap_or(rest.len()))
}

/// Whether a method or header name may have `byte` (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn plain_bytes_are_counted_one_by_one(
            bytes in prop::collection::vec(prop_oneof![8 => 0x20u8..0x7f, 1 => any::<u8>()], 0..40)
        ) {
            let odd = bytes.iter().position(|&byte| byte < b' ' || byte == 0x7f);
            prop_assert_eq!(plain(&bytes), odd.unwrap_or(bytes.len()));
        }

        #[test]
        fn any_bytes_are(bytes: Vec<u8>) {
            let odd = bytes.iter().position(|&byte| byte < b' ' || byte == 0x7f);
            prop_assert_eq!(plain(&bytes), odd.unwrap_or(bytes.len()));
        }
    }
}
