// SPDX-License-Identifier: GPL-2.0

//! The Internet checksum: whole (RFC 1071) and incrementally updated (RFC 1624).
//!
//! Both work on ones' complement sums of 16-bit words in network order. A ones' complement sum
//! has two zeros, 0 and 0xffff; a sum over anything that is not all zero folds to 0xffff, never
//! to 0, and the update by RFC 1624, equation 3, keeps it so. That is why an updated checksum
//! equals the recomputed one bit by bit, and not only as far as a receiver can tell.

use crate::tuple::{
    v4_of,
    Addr, //
};

/// The protocol number of TCP in pseudo-headers and IP headers.
pub const IPPROTO_TCP: u8 = 6;

/// The protocol number of ICMP in IP headers.
pub const IPPROTO_ICMP: u8 = 1;

/// The protocol number of ICMP in IPv6 headers (RFC 4443).
pub const IPPROTO_ICMPV6: u8 = 58;

/// The protocol number of IPv4 in IP (RFC 2003).
pub const IPPROTO_IPIP: u8 = 4;

/// The protocol number of IPv6 in IP (RFC 2473).
pub const IPPROTO_IPV6: u8 = 41;

/// Folds the carries of a ones' complement sum into 16 bits.
const fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        // OVERFLOW: two numbers far below 2^63.
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // CAST: at most 0xffff after the loop.
    sum as u16
}

/// A ones' complement sum over bytes that may come in several pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// The sum so far, carries not yet folded.
    acc: u64,
    /// Whether an odd number of bytes has been added.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { acc: 0, odd: false }
    }

    /// The sum of the pseudo-header of a TCP segment of `len` bytes (RFC 9293, section 3.1; for
    /// IPv6 RFC 8200, section 8.1). Two v4-mapped addresses stand for IPv4.
    #[must_use]
    pub fn pseudo(src: &Addr, dst: &Addr, len: u32) -> Self {
        Self::pseudo_of(IPPROTO_TCP, src, dst, len)
    }

    /// The same for another protocol.
    #[must_use]
    pub fn pseudo_of(protocol: u8, src: &Addr, dst: &Addr, len: u32) -> Self {
        let sum = match (v4_of(src), v4_of(dst)) {
            (Some(src), Some(dst)) => Self::new().append(&src).append(&dst),
            _ => Self::new().append(src).append(dst),
        };
        sum.append(&len.to_be_bytes()).append(&[0, protocol])
    }

    /// The sum with `bytes` added behind those already in it.
    #[must_use]
    pub fn append(self, bytes: &[u8]) -> Self {
        // 2^16 is 1 modulo 0xffff, so 32-bit words may be added as they are.
        let halves = |acc: u64, word: [u8; 8]| {
            let word = u64::from_be_bytes(word);
            acc.wrapping_add(word >> 32)
                .wrapping_add(word & 0xffff_ffff)
        };
        let (mut acc, mut rest) = (0u64, bytes);
        while let Some((word, after)) = rest.split_first_chunk() {
            acc = halves(acc, *word);
            rest = after;
        }
        if !rest.is_empty() {
            // What is left is padded with zeros (RFC 1071, section 1).
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            acc = halves(acc, last);
        }

        // A piece that begins at an odd place has its bytes swapped (RFC 1071, section 2 (B)).
        let piece = fold(acc);
        let piece = if self.odd { piece.swap_bytes() } else { piece };
        Self {
            acc: self.acc.wrapping_add(u64::from(piece)),
            odd: self.odd != (bytes.len() % 2 == 1),
        }
    }

    /// The folded sum: what a `CHECKSUM_PARTIAL` check field holds of the pseudo-header.
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.acc)
    }

    /// The checksum: the complement of the folded sum.
    #[must_use]
    pub const fn check(self) -> u16 {
        !fold(self.acc)
    }
}

/// Collects what a rewrite changes, to update a checksum that covers it.
///
/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), for any number of changed words m to m'.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a change that is not applied leaves a wrong checksum"]
pub struct Csum {
    /// The sum of all ~m + m'.
    acc: u64,
}

impl Csum {
    /// No change.
    pub const fn new() -> Self {
        Self { acc: 0 }
    }

    /// Notes that the word `old` became `new`. `odd` says that the word begins at an odd place
    /// of the checksummed bytes, as TCP options may.
    pub fn replace16(&mut self, odd: bool, old: u16, new: u16) {
        let (old, new) = if odd {
            (old.swap_bytes(), new.swap_bytes())
        } else {
            (old, new)
        };
        self.acc = self
            .acc
            .wrapping_add(u64::from(!old))
            .wrapping_add(u64::from(new));
    }

    /// As [`Csum::replace16`], for 32 bits.
    pub fn replace32(&mut self, odd: bool, old: u32, new: u32) {
        let ([a, b, c, d], [e, f, g, h]) = (old.to_be_bytes(), new.to_be_bytes());
        self.replace16(odd, u16::from_be_bytes([a, b]), u16::from_be_bytes([e, f]));
        self.replace16(odd, u16::from_be_bytes([c, d]), u16::from_be_bytes([g, h]));
    }

    /// As [`Csum::replace16`], for an address, which always begins at an even place.
    pub fn replace_addr(&mut self, old: &Addr, new: &Addr) {
        let words = |addr: &Addr| u128::from_be_bytes(*addr);
        let (mut old, mut new) = (words(old), words(new));
        // The order of the words is nothing to a sum.
        for _ in 0..4 {
            // CAST: Their lower halves.
            self.replace32(false, old as u32, new as u32);
            (old, new) = (old >> 32, new >> 32);
        }
    }

    /// The checksum `check` after the changes.
    #[must_use]
    pub const fn apply(self, check: u16) -> u16 {
        // OVERFLOW: `acc` is a sum of few 16-bit words.
        !fold(self.acc.wrapping_add(!check as u64))
    }

    /// The check field of a `CHECKSUM_PARTIAL` packet after changes of its *pseudo-header*. The
    /// field holds that header's sum, not complemented, and covers nothing else yet.
    #[must_use]
    pub const fn apply_partial(self, check: u16) -> u16 {
        fold(self.acc.wrapping_add(check as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::v4_mapped;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// RFC 1071 as one would write it first.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for (i, byte) in bytes.iter().enumerate() {
            sum += u32::from(*byte) << (8 * (1 - i % 2));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn known_values() {
        // RFC 1071, section 3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().append(&bytes).folded(), 0xddf2);
        // RFC 1624, section 4: 0xdd2f, word 0x5555 to 0x3285, gives 0x0000.
        let mut change = Csum::new();
        change.replace16(false, 0x5555, 0x3285);
        assert_eq!(change.apply(0xdd2f), 0x0000);
        // Nothing changed, nothing changes, not even the other zero.
        assert_eq!(Csum::new().apply(0xffff), 0xffff);
        assert_eq!(Csum::new().apply_partial(0), 0);
        assert_eq!(Sum::new().check(), 0xffff);
    }

    #[test]
    fn pseudo_headers_of_both_families() {
        let v4 = Sum::pseudo(&v4_mapped([192, 0, 2, 1]), &v4_mapped([10, 0, 0, 2]), 20);
        let header = [192, 0, 2, 1, 10, 0, 0, 2, 0, 6, 0, 20];
        assert_eq!(v4.check(), naive(&header));
        let (src, dst) = ([0x20; 16], [0xfd; 16]);
        let mut header = Vec::new();
        header.extend_from_slice(&src);
        header.extend_from_slice(&dst);
        header.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 6]);
        assert_eq!(Sum::pseudo(&src, &dst, 0x10000).check(), naive(&header));
    }

    proptest! {
        #[test]
        fn pieces_add_up(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6)) {
            let whole: Vec<u8> = pieces.concat();
            let sum = pieces.iter().fold(Sum::new(), |sum, piece| sum.append(piece));
            prop_assert_eq!(sum.check(), naive(&whole));
        }

        #[test]
        fn updates_equal_recomputation(
            mut bytes in prop::collection::vec(any::<u8>(), 8..64),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u32>()), 0..5),
        ) {
            // As in a TCP segment, something in it is not zero.
            bytes.extend_from_slice(&[0, IPPROTO_TCP]);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            let check = naive(&bytes);
            let mut change = Csum::new();
            for (index, wide, new) in edits {
                let at = index.index(bytes.len() - 5);
                if wide {
                    let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
                    change.replace32(at % 2 == 1, old, new);
                    bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
                } else {
                    let old = u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
                    change.replace16(at % 2 == 1, old, new as u16);
                    bytes[at..at + 2].copy_from_slice(&(new as u16).to_be_bytes());
                }
            }
            prop_assert_eq!(change.apply(check), naive(&bytes));
            prop_assert_eq!(change.apply_partial(!check), !naive(&bytes));
        }
    }
}
