// SPDX-License-Identifier: GPL-2.0

//! What a byte is in a host's name or a path, looked up.

/// What it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A letter, a digit, a dash or an underscore, which names and paths have.
    Name,
    /// A tilde, which only paths have.
    Tilde,
    Dot,
    Slash,
    Other,
}

impl Class {
    pub(crate) fn of(byte: u8) -> Self {
        CLASSES[usize::from(byte)]
    }
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < classes.len() {
        // CAST: Below 256.
        classes[byte] = match byte as u8 {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' => Class::Name,
            b'~' => Class::Tilde,
            b'.' => Class::Dot,
            b'/' => Class::Slash,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};
