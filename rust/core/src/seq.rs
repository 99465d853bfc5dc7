// SPDX-License-Identifier: GPL-2.0

//! TCP sequence numbers: 32 bits, modulo 2^32.
//!
//! RFC 9293, section 3.4.

use core::fmt;

/// A sequence or acknowledgement number.
///
/// Numbers are ordered on a circle, so there is no total order and no `Ord`: [`Seq::lt`] and its
/// siblings are right for numbers that are less than 2^31 apart, as those of one window are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `n` octets after this one.
    #[must_use]
    pub const fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The number `n` octets before this one.
    #[must_use]
    pub const fn sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// How far this number lies after `other`; negative if it lies before.
    #[must_use]
    pub const fn diff(self, other: Self) -> i32 {
        // CAST: the signed distance on the circle is the two's complement reading.
        self.0.wrapping_sub(other.0) as i32
    }

    /// How far this number lies after `other`, counted forwards only.
    #[must_use]
    pub const fn since(self, other: Self) -> u32 {
        self.0.wrapping_sub(other.0)
    }

    /// Whether this number lies before `other`.
    #[must_use]
    pub const fn lt(self, other: Self) -> bool {
        self.diff(other) < 0
    }

    /// Whether this number is `other` or lies before it.
    #[must_use]
    pub const fn le(self, other: Self) -> bool {
        self.diff(other) <= 0
    }

    /// Whether this number lies after `other`.
    #[must_use]
    pub const fn gt(self, other: Self) -> bool {
        self.diff(other) > 0
    }

    /// Whether this number is `other` or lies after it.
    #[must_use]
    pub const fn ge(self, other: Self) -> bool {
        self.diff(other) >= 0
    }

    /// Whether this number is one of the `len` numbers that begin with `start`.
    #[must_use]
    pub const fn within(self, start: Self, len: u32) -> bool {
        self.since(start) < len
    }

    /// The later of the two.
    #[must_use]
    pub const fn later(self, other: Self) -> Self {
        if self.lt(other) {
            other
        } else {
            self
        }
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_wraps_around() {
        let cases = [
            (0u32, 1u32, -1i32),
            (1, 0, 1),
            (u32::MAX, 0, -1),
            (0, u32::MAX, 1),
            (0x7fff_ffff, 0, 0x7fff_ffff),
            (0xffff_fff0, 0x10, -0x20),
            (5, 5, 0),
            (0x8000_0000, 0, i32::MIN),
        ];
        for (a, b, diff) in cases {
            let (a, b) = (Seq(a), Seq(b));
            assert_eq!(a.diff(b), diff);
            assert_eq!(a.lt(b), diff < 0);
            assert_eq!(a.le(b), diff <= 0);
            assert_eq!(a.gt(b), diff > 0);
            assert_eq!(a.ge(b), diff >= 0);
        }
    }

    #[test]
    fn windows_wrap_around() {
        assert!(Seq(2).within(Seq(u32::MAX), 4));
        assert!(!Seq(3).within(Seq(u32::MAX), 4));
        assert!(!Seq(0).within(Seq(0), 0));
        assert_eq!(Seq(u32::MAX).later(Seq(3)), Seq(3));
        assert_eq!(Seq(3).later(Seq(u32::MAX)), Seq(3));
    }

    proptest! {
        #[test]
        fn add_and_diff_agree(a: u32, n in 0u32..0x8000_0000) {
            let b = Seq(a).add(n);
            prop_assert_eq!(i64::from(b.diff(Seq(a))), i64::from(n));
            prop_assert_eq!(b.since(Seq(a)), n);
            prop_assert_eq!(b.sub(n), Seq(a));
            prop_assert_eq!(Seq(a).lt(b), n != 0);
            prop_assert!(Seq(a).le(b));
        }
    }
}
