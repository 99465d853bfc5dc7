// SPDX-License-Identifier: GPL-2.0

//! SYN cookies: a front end's initial sequence number that says what the client's SYN said, so that
//! nothing need be kept until the client has answered.
//!
//! After D. J. Bernstein's idea (RFC 4987, section 3.6) and, for the layout, FreeBSD's: 8 bits of the
//! client's options, and a code that only who has the key can make.
//!
//! ```text
//!  31              16 15       8 7         0
//! +------------------+----------+-----------+
//! |    connection    |  number  |  options  |
//! +------------------+----------+-----------+
//! ```
//!
//! The time is that of day, and the key may be the cluster's: then one node can make a cookie, and
//! another check it.
//!
//! - *options*: MSS (3 bits, an index), window scale (4, of which 15 is none), SACK (1), disguised by
//!   the code of the connection.
//! - *connection*: a code over the connection's ends, the time and the options.
//! - *number*: a code over the same and the client's initial sequence number. Apart from the other,
//!   because a segment may overtake the client's first one: its number then is not the one behind
//!   the SYN's, and it is no stranger's.
//!
//! Timestamps need no bit, as the client's answer has them if they were agreed. What else a SYN may
//! ask for is not granted.

use crate::{
    seq::Seq,
    tcp::{
        Options,
        SynFacts,
        MAX_WSCALE, //
    },
    tuple::{
        on_link,
        Tuple, //
    },
};

/// The MSS that can be told: of a client's the next one that is not larger.
const MSS: [u16; 8] = [216, 536, 1200, 1360, 1400, 1440, 1460, 8960];

/// In the place of a window scale: there is none.
const NO_WSCALE: u8 = 15;

/// For how many milliseconds the time is the same, as a shift count.
const TICK_SHIFT: u32 = 16;

/// How many ticks a cookie outlasts the one that it was made in. It so is valid for 131 to 196 s, about
/// as long as a browser keeps a connection that it has opened ahead.
const TICKS: u32 = 2;

/// By how many ticks the clock of another node, which made a cookie, may be ahead.
const AHEAD: u32 = 1;

/// The size of the secret that cookies are made with.
pub const SECRET_LEN: usize = 16;

/// What distinguishes that secret from others that are made of the same key of the cluster.
pub const LABEL: &[u8; 16] = b"CARISMA cookie\0\0";

/// A keyed hash of four words, which nobody can guess who has not the key.
pub trait Hash {
    /// The hash.
    fn hash(&self, words: [u64; 4]) -> u64;
}

/// What the client said in its SYN, as far as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// What the client takes in a segment, or a little less.
    pub mss: u16,
    /// The shift count of its windows, if it has one.
    pub wscale: Option<u8>,
    /// It understands selective acknowledgements.
    pub sack_ok: bool,
}

impl Said {
    /// What a SYN says.
    #[must_use]
    pub fn of(syn: &SynFacts) -> Self {
        let Options {
            mss,
            wscale,
            sack_ok,
            ..
        } = syn.options;
        // RFC 9293, section 3.7.1.
        let mss = mss.filter(|&mss| mss != 0).unwrap_or(536);
        Self {
            mss: mss_of(mss_index(mss)),
            wscale: wscale.map(|it| it.min(MAX_WSCALE)),
            sack_ok,
        }
    }

    fn encode(&self) -> u8 {
        // CAST: An index below 8.
        let mss = mss_index(self.mss) as u8;
        let wscale = self.wscale.unwrap_or(NO_WSCALE) & 15;
        (mss << 5) | (wscale << 1) | u8::from(self.sack_ok)
    }

    fn decode(bits: u8) -> Self {
        let wscale = (bits >> 1) & 15;
        Self {
            mss: mss_of(usize::from(bits >> 5)),
            wscale: (wscale != NO_WSCALE).then_some(wscale),
            sack_ok: bits & 1 != 0,
        }
    }
}

/// The place of the largest MSS that is not larger, or of the smallest.
fn mss_index(mss: u16) -> usize {
    MSS.iter().rposition(|&it| it <= mss).unwrap_or(0)
}

/// The MSS at a place.
fn mss_of(index: usize) -> u16 {
    MSS.get(index).copied().unwrap_or(536)
}

/// What an acknowledgement of a client's turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answers a cookie, and is the first of the client's: this is what the SYN said.
    First(Said),
    /// It answers a cookie, but something of the client's is missing before it.
    Early,
    /// It does not answer any cookie that is still valid.
    Stranger,
}

/// Both codes of one cookie, and what disguises the options.
struct Codes<'a, H: Hash> {
    hash: &'a H,
    ends: u64,
    tick: u64,
}

impl<H: Hash> Codes<'_, H> {
    /// The byte by which the options are disguised.
    fn mask(&self) -> u8 {
        // CAST: The lowest byte.
        self.hash.hash([self.ends, self.tick, 0, 0]) as u8
    }

    /// The code of the connection in the upper 16 bits, that of the number in the next 8.
    fn code(&self, isn: Seq, options: u8) -> u32 {
        let connection = self
            .hash
            .hash([self.ends, self.tick, u64::from(options), 1]);
        let number = self.hash.hash([connection, u64::from(isn.0), 0, 2]);
        // CAST: The bits that the masks leave.
        (connection as u32 & 0xffff_0000) | (number as u32 & 0xff00)
    }
}

/// A word that stands for the ends of a connection.
fn ends<H: Hash>(hash: &H, tuple: &Tuple) -> u64 {
    let halves = |addr: &[u8; 16]| {
        let value = u128::from_be_bytes(*addr);
        // CAST: Each half.
        [(value >> 64) as u64, value as u64]
    };
    // Another node calls the link something else.
    let client = on_link(&tuple.client, 0);
    let ([a, b], [c, d]) = (halves(&client), halves(&tuple.local));
    let ports = (u64::from(tuple.client_port.get()) << 16) | u64::from(tuple.local_port.get());
    let addresses = hash.hash([a, b, c, d]);
    hash.hash([addresses, ports, 0, 3])
}

/// The initial sequence number by which a SYN is answered that says `said`, at `now` milliseconds.
#[must_use]
pub fn make(hash: &impl Hash, tuple: &Tuple, isn: Seq, said: &Said, now: u32) -> Seq {
    let codes = Codes {
        hash,
        ends: ends(hash, tuple),
        tick: u64::from(now >> TICK_SHIFT),
    };
    let options = said.encode();
    Seq(codes.code(isn, options) | u32::from(options ^ codes.mask()))
}

/// What a segment of a client's is that has these numbers, at `now` milliseconds of the clock that
/// [`make`] was given.
#[must_use]
pub fn check(hash: &impl Hash, tuple: &Tuple, seq: Seq, ack: Seq, now: u32) -> Verdict {
    let ends = ends(hash, tuple);
    let cookie = ack.sub(1).0;
    let mut verdict = Verdict::Stranger;
    let ahead = now.wrapping_add(AHEAD << TICK_SHIFT);
    // Most are of this tick, or of the one before.
    let ages = (AHEAD..=AHEAD.wrapping_add(TICKS)).chain(0..AHEAD);
    for age in ages {
        let codes = Codes {
            hash,
            ends,
            // The clock goes round, and so do its ticks.
            tick: u64::from(ahead.wrapping_sub(age << TICK_SHIFT) >> TICK_SHIFT),
        };
        // CAST: The lowest byte.
        let options = cookie as u8 ^ codes.mask();
        let code = codes.code(seq.sub(1), options);
        if (code ^ cookie) & 0xffff_ff00 == 0 {
            return Verdict::First(Said::decode(options));
        }
        if (code ^ cookie) & 0xffff_0000 == 0 {
            verdict = Verdict::Early;
        }
    }
    verdict
}

/// A word that stands for one segment that answers a cookie.
#[must_use]
pub fn fingerprint(hash: &impl Hash, tuple: &Tuple, seq: Seq, ack: Seq) -> u64 {
    let numbers = (u64::from(seq.0) << 32) | u64::from(ack.0);
    hash.hash([ends(hash, tuple), numbers, 0, 4])
}

/// The timestamp clock towards a client, the same on all nodes with the key: one that does not stop
/// between its connections, so that a TIME_WAIT of its own knows the next from the last (RFC 7323,
/// appendix B).
#[must_use]
pub fn clock(hash: &impl Hash, tuple: &Tuple, now: u32) -> u32 {
    let between = Tuple {
        client_port: 0.into(),
        local_port: 0.into(),
        ..*tuple
    };
    // CAST: Any 32 bits.
    now.wrapping_add(ends(hash, &between) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::{
        DefaultHasher,
        Hash as _,
        Hasher as _, //
    };

    struct Key(u64);

    impl Hash for Key {
        fn hash(&self, words: [u64; 4]) -> u64 {
            let mut hasher = DefaultHasher::new();
            (self.0, words).hash(&mut hasher);
            hasher.finish()
        }
    }

    const TICK: u32 = 1 << TICK_SHIFT;

    fn tuple(port: u16) -> Tuple {
        Tuple::v4([10, 0, 0, 1], port, [10, 0, 0, 2], 80)
    }

    fn said(mss: u16, wscale: Option<u8>, sack_ok: bool) -> Said {
        Said::of(&SynFacts {
            options: Options {
                mss: Some(mss),
                wscale,
                sack_ok,
                ..Options::default()
            },
            ..SynFacts::default()
        })
    }

    #[test]
    fn mss_is_never_told_too_large() {
        for (mss, told) in [
            (1460, 1460),
            (1459, 1440),
            (9000, 8960),
            (536, 536),
            (535, 216),
            (100, 216),
            (0, 536),
        ] {
            assert_eq!(said(mss, None, false).mss, told);
        }
        let plain = Said::of(&SynFacts::default());
        assert_eq!((plain.mss, plain.wscale, plain.sack_ok), (536, None, false));
    }

    #[test]
    fn every_option_comes_back() {
        for bits in 0..=255 {
            assert_eq!(Said::decode(bits).encode(), bits);
        }
        assert_eq!(said(1460, Some(200), true).wscale, Some(14));
    }

    #[test]
    fn what_follows_is_told_from_what_came_too_early() {
        let (key, said) = (Key(1), said(1460, Some(7), true));
        let cookie = make(&key, &tuple(4711), Seq(100), &said, 5);
        let ack = cookie.add(1);
        let check = |seq, now| check(&key, &tuple(4711), Seq(seq), ack, now);
        assert_eq!(check(101, 5), Verdict::First(said));
        let early = (102..1102).filter(|&seq| check(seq, 5) == Verdict::Early);
        assert!(early.count() > 950);
    }

    proptest! {
        #[test]
        fn a_cookie_is_good_for_its_own_connection_and_time(
            key: u64, port in 1..u16::MAX, isn: u32, now: u32, bits: u8, age in 0..TICKS * TICK
        ) {
            let (key, said) = (Key(key), Said::decode(bits));
            let cookie = make(&key, &tuple(port), Seq(isn), &said, now);
            let first = |key: &Key, port, seq: Seq, ack: Seq, now| {
                matches!(check(key, &tuple(port), seq, ack, now), Verdict::First(_))
            };
            let (seq, ack) = (Seq(isn).add(1), cookie.add(1));
            prop_assert_eq!(
                check(&key, &tuple(port), seq, ack, now.wrapping_add(age)),
                Verdict::First(said)
            );
            // By chance a stranger may have a cookie that is good; two of them together have not.
            let (late, key) = (now.wrapping_add((TICKS + 1) * TICK), &key);
            let strangers = [
                first(&Key(!key.0), port, seq, ack, now),
                first(key, port ^ 1, seq, ack, now),
                first(key, port, seq.add(7), ack, now),
                first(key, port, seq, ack.add(256), now),
                first(key, port, seq, ack, late),
            ];
            prop_assert!(strangers.iter().filter(|it| **it).count() < 2);
        }

        #[test]
        fn the_clock_goes_on_between_connections(key: u64, now: u32, later: u16) {
            let key = Key(key);
            let before = clock(&key, &tuple(1), now);
            let after = clock(&key, &tuple(2), now.wrapping_add(later.into()));
            prop_assert_eq!(after.wrapping_sub(before), u32::from(later));
        }
    }
}
