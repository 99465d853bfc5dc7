// SPDX-License-Identifier: GPL-2.0

//! How many of a service's requests other nodes serve, and which mode that speaks for (paper, sections 4
//! and 5: *rare* is cheap for what is served where it arrives, *frequent* for what is not).

/// 1, in the units of a share.
const ONE: u32 = 1 << 16;

/// The part of the difference that one request makes up for: the last few hundred requests count.
const SHIFT: u32 = 7;

/// From here on a service is frequent, and from there on rare again: 50 %, and as much to either side as
/// chance alone seldom makes of that.
const FREQUENT: u32 = ONE / 10 * 6;
const RARE: u32 = ONE / 10 * 4;

/// A moving average, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// Whether it speaks for frequent mode, in the uppermost bit.
    const MODE: u32 = 1 << 31;

    /// The one that [`Self::word`] was taken of. Zero is the share of a service without requests.
    #[must_use]
    pub const fn of(word: u32) -> Self {
        Self(word)
    }

    /// All of it.
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// How many of a hundred requests other nodes serve.
    #[must_use]
    pub fn percent(self) -> u32 {
        // OVERFLOW: a share is at most `ONE`.
        (self.share() * 100 + ONE / 2) / ONE
    }

    /// Whether the service should be a frequent one.
    #[must_use]
    pub fn is_frequent(self) -> bool {
        self.0 & Self::MODE != 0
    }

    /// After one more request.
    #[must_use]
    pub fn with(self, remote: bool) -> Self {
        let before = self.share();
        let share = match remote {
            // OVERFLOW: both are at most `ONE`, so is what lies between them.
            true => before + (ONE - before).div_ceil(1 << SHIFT),
            false => before - before.div_ceil(1 << SHIFT),
        };
        let mode = match share {
            FREQUENT.. => Self::MODE,
            ..=RARE => 0,
            _ => self.0 & Self::MODE,
        };
        Self(share | mode)
    }

    fn share(self) -> u32 {
        (self.0 & !Self::MODE).min(ONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `remote` requests of every `all` come to, from `share` on.
    fn after(mut share: Share, requests: usize, remote: usize, all: usize) -> Share {
        for number in 0..requests {
            // Spread evenly.
            let is_remote = (number + 1) * remote / all != number * remote / all;
            share = share.with(is_remote);
        }
        share
    }

    #[test]
    fn it_comes_near() {
        for remote in 0..=20 {
            let share = after(Share::default(), 2000, remote, 20);
            let wanted = 5 * remote as i64;
            assert!(
                (i64::from(share.percent()) - wanted).abs() <= 2,
                "{remote}: {share:?}"
            );
        }
    }

    #[test]
    fn the_mode_stays_in_between() {
        let rare = Share::default();
        assert!(!rare.is_frequent());
        assert!(!after(rare, 2000, 11, 20).is_frequent());
        let frequent = after(rare, 400, 13, 20);
        assert!(frequent.is_frequent());
        assert!(after(frequent, 2000, 9, 20).is_frequent());
        assert!(!after(frequent, 400, 7, 20).is_frequent());
    }

    #[test]
    fn some_hundred_requests_are_enough() {
        assert!(after(Share::default(), 150, 1, 1).is_frequent());
        assert!(!after(after(Share::default(), 2000, 1, 1), 150, 0, 1).is_frequent());
    }

    proptest! {
        #[test]
        fn any_word_is_one(word: u32, remote: bool) {
            let share = Share::of(word).with(remote);
            prop_assert!(share.percent() <= 100);
            prop_assert_eq!(Share::of(share.word()), share);
            prop_assert!(share.share() <= ONE);
        }
    }
}
