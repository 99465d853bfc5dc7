// SPDX-License-Identifier: GPL-2.0

//! Names of nodes.

use core::fmt;

/// A node's name: 1 to 16 letters, digits, dots, dashes and underscores, in ASCII.
///
/// Names are ordered by their bytes: of two nodes the one whose name sorts lower connects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Name([u8; 16]);

impl Name {
    /// The name with these bytes, if it can be one.
    #[must_use]
    pub fn new(name: &[u8]) -> Option<Self> {
        let mut padded = [0; 16];
        padded.get_mut(..name.len())?.copy_from_slice(name);
        Self::from_padded(padded)
    }

    /// The name that fills the beginning of `padded`, zeroes the rest.
    #[must_use]
    pub fn from_padded(padded: [u8; 16]) -> Option<Self> {
        let name = Self(padded);
        let (own, rest) = padded.split_at_checked(name.as_bytes().len())?;
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
        (!own.is_empty() && own.iter().all(valid) && rest.iter().all(|byte| *byte == 0))
            .then_some(name)
    }

    /// The name, without the padding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or(&[])
    }

    /// The name, padded with zeroes.
    #[must_use]
    pub fn padded(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(self.as_bytes()).unwrap_or("?"))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn names_are_checked() {
        let good: [&[u8]; 4] = [b"a", b"node-1.example", b"A_b", b"0123456789abcdef"];
        for name in good {
            assert_eq!(Name::new(name).unwrap().as_bytes(), name);
        }
        let bad: [&[u8]; 6] = [
            b"",
            b"a b",
            b"a\0b",
            b"\0",
            b"0123456789abcdefg",
            b"n\xc3\xa9",
        ];
        for name in bad {
            assert_eq!(Name::new(name), None);
        }
        let mut padded = [0; 16];
        padded[..3].copy_from_slice(b"a\0b");
        assert_eq!(Name::from_padded(padded), None);
        assert_eq!(Name::new(b"fr").unwrap().to_string(), "fr");
    }

    #[test]
    fn names_sort_by_their_bytes() {
        let name = |name: &str| Name::new(name.as_bytes()).unwrap();
        assert!(name("a") < name("aa"));
        assert!(name("B") < name("a"));
        assert!(name("n10") < name("n9"));
    }
}
