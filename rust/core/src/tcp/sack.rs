// SPDX-License-Identifier: GPL-2.0

//! The blocks of a selective acknowledgement (RFC 2018).

use crate::seq::Seq;

/// How many blocks there are at most: as many as fit beside timestamps.
pub const MAX_SACK: usize = 3;

/// What was received behind the acknowledgement number: the numbers from one up to another, which
/// is not part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sack {
    len: usize,
    blocks: [(Seq, Seq); MAX_SACK],
}

impl Sack {
    /// No block.
    pub const NONE: Self = Self {
        len: 0,
        blocks: [(Seq(0), Seq(0)); MAX_SACK],
    };

    /// The blocks of what was received behind `next`, given as first and next number of each
    /// segment, the newest segment first. That one is in the first block (section 4); segments that
    /// touch are one.
    #[must_use]
    pub fn new(next: Seq, newest_first: impl Iterator<Item = (Seq, Seq)> + Clone) -> Self {
        let mut sack = Self::NONE;
        for (start, end) in newest_first.clone() {
            let Some(room) = sack.blocks.get_mut(sack.len) else {
                break;
            };
            *room = grow((start, end), newest_first.clone());
            let told = |block: &(Seq, Seq)| block.0.le(start) && block.1.ge(end);
            let (block, known) = (*room, sack.blocks().iter().any(told));
            if !known && block.0.gt(next) && block.1.gt(block.0) {
                sack.len = sack.len.saturating_add(1);
            }
        }
        sack
    }

    /// The blocks.
    #[must_use]
    pub fn blocks(&self) -> &[(Seq, Seq)] {
        self.blocks.get(..self.len).unwrap_or(&[])
    }
}

/// A block, with all that it touches.
fn grow(block: (Seq, Seq), segments: impl Iterator<Item = (Seq, Seq)> + Clone) -> (Seq, Seq) {
    let (mut start, mut end) = block;
    loop {
        let was = (start, end);
        for (first, next) in segments.clone() {
            if first.le(end) && next.ge(start) {
                start = if first.lt(start) { first } else { start };
                end = if next.gt(end) { next } else { end };
            }
        }
        if (start, end) == was {
            return was;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn blocks(next: u32, newest_first: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let segments = newest_first.iter().map(|(a, b)| (Seq(*a), Seq(*b)));
        let sack = Sack::new(Seq(next), segments);
        sack.blocks().iter().map(|(a, b)| (a.0, b.0)).collect()
    }

    #[test]
    fn nothing_is_no_block() {
        assert!(blocks(1, &[]).is_empty());
        // An empty segment, and one that is not behind the gap.
        assert!(blocks(1, &[(5, 5), (1, 3)]).is_empty());
    }

    #[test]
    fn the_newest_is_in_the_first_block() {
        assert_eq!(
            blocks(1, &[(20, 30), (5, 9), (40, 41)]),
            [(20, 30), (5, 9), (40, 41)]
        );
    }

    #[test]
    fn what_touches_is_one() {
        assert_eq!(blocks(1, &[(20, 30), (10, 20), (30, 35)]), [(10, 35)]);
        assert_eq!(blocks(1, &[(20, 30), (40, 50), (25, 40)]), [(20, 50)]);
        assert_eq!(
            blocks(1, &[(20, 30), (20, 30), (50, 60), (22, 24)]),
            [(20, 30), (50, 60)]
        );
    }

    #[test]
    fn there_are_three_at_most() {
        let many: Vec<_> = (1..10).map(|n| (n * 10, n * 10 + 5)).collect();
        assert_eq!(blocks(1, &many), many[..3]);
    }

    #[test]
    fn numbers_go_round() {
        let (start, end) = (u32::MAX - 5, 5);
        assert_eq!(
            blocks(u32::MAX - 10, &[(start, 1), (1, end)]),
            [(start, end)]
        );
    }
}
