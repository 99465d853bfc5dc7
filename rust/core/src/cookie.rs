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
//! - *connection*: a code over the connection's ends and the time, and in it the options: so it seldom
//!   fits what acknowledges more than the cookie, whose lowest byte is another.
//! - *options*: MSS (3 bits, an index), window scale (4, of which 15 is none), SACK (1), disguised by
//!   another part of that code.
//! - *number*: a code over the same, the options, and the client's initial sequence number. Apart from the other,
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
        v4_of,
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

/// A keyed hash of two or four words, which nobody can guess who has not the key.
pub trait Hash {
    /// The hash of two.
    fn pair(&self, words: [u64; 2]) -> u64;
    /// The hash of four, which costs half as much again.
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
    /// It answers a cookie, and is the first of the client's: this is what the SYN said, and a word that
    /// stands for this segment among all that answer cookies. Who has not the key cannot guess its upper
    /// 48 bits.
    First(Said, u64),
    /// It answers a cookie, but something of the client's is missing before it.
    Early,
    /// It does not answer any cookie that is still valid.
    Stranger,
}

/// A connection as cookies know it.
pub struct Ends<'a, H: Hash> {
    hash: &'a H,
    /// Both addresses of IPv4, or a hash of those of IPv6.
    addresses: u64,
    ports: u32,
}

/// What a hash is of: the lowest byte of its last word.
mod of {
    pub(super) const TICK: u64 = 0;
    pub(super) const NUMBER: u64 = 1;
    pub(super) const CLOCK: u64 = 2;
}

impl<'a, H: Hash> Ends<'a, H> {
    /// That of a client, `tuple`, by one of the cluster's secrets.
    #[must_use]
    pub fn new(hash: &'a H, tuple: &Tuple) -> Self {
        let word = |addr: [u8; 4]| u64::from(u32::from_be_bytes(addr));
        let halves = |addr: &[u8; 16]| {
            let value = u128::from_be_bytes(*addr);
            // CAST: Each half.
            [(value >> 64) as u64, value as u64]
        };
        let addresses = match (v4_of(&tuple.client), v4_of(&tuple.local)) {
            (Some(client), Some(local)) => (word(client) << 32) | word(local),
            _ => {
                // Another node calls the link something else.
                let client = on_link(&tuple.client, 0);
                let ([a, b], [c, d]) = (halves(&client), halves(&tuple.local));
                hash.hash([a, b, c, d])
            }
        };
        let (client_port, port) = (tuple.client_port.get(), tuple.local_port.get());
        Self {
            hash,
            addresses,
            ports: (u32::from(client_port) << 16) | u32::from(port),
        }
    }

    /// What all cookies of one tick are made of: what disguises the options in the lowest byte, and the code
    /// of the connection, but for them, in bits 16 to 31.
    fn base(&self, now: u32) -> u64 {
        // 16 bits.
        let tick = u64::from(now >> TICK_SHIFT);
        let ports = u64::from(self.ports) << 32;
        self.hash
            .pair([self.addresses, ports | (tick << 8) | of::TICK])
    }

    /// What the code of the number is a part of.
    fn number(&self, base: u64, isn: Seq, options: u8) -> u64 {
        let (isn, options) = (u64::from(isn.0) << 32, u64::from(options) << 8);
        self.hash.pair([base, isn | options | of::NUMBER])
    }

    /// The initial sequence number by which a SYN is answered that says `said`, at `now` milliseconds.
    #[must_use]
    pub fn make(&self, isn: Seq, said: &Said, now: u32) -> Seq {
        let (base, options) = (self.base(now), said.encode());
        let number = number(self.number(base, isn, options));
        // CAST: The lowest byte.
        let disguised = u32::from(options ^ base as u8);
        Seq(connection(base, options) | number | disguised)
    }

    /// What a segment of the client's is that has these numbers, at `now` milliseconds of the clock that
    /// [`Ends::make`] was given.
    #[must_use]
    pub fn check(&self, seq: Seq, ack: Seq, now: u32) -> Verdict {
        let cookie = ack.sub(1).0;
        let mut verdict = Verdict::Stranger;
        let ahead = now.wrapping_add(AHEAD << TICK_SHIFT);
        // Most are of this tick, or of the one before.
        let ages = (AHEAD..=AHEAD.wrapping_add(TICKS)).chain(0..AHEAD);
        for age in ages {
            // The clock goes round, and so do its ticks.
            let base = self.base(ahead.wrapping_sub(age << TICK_SHIFT));
            // CAST: The lowest bytes.
            let options = cookie as u8 ^ base as u8;
            if connection(base, options) != cookie & 0xffff_0000 {
                continue;
            }
            let whole = self.number(base, seq.sub(1), options);
            if number(whole) == cookie & 0xff00 {
                return Verdict::First(Said::decode(options), whole);
            }
            verdict = Verdict::Early;
        }
        verdict
    }

    /// The timestamp clock towards the client, the same on all nodes with the secret: one that does not
    /// stop between its connections, so that a TIME_WAIT of its own knows the next from the last (RFC
    /// 7323, appendix B).
    #[must_use]
    pub fn clock(&self, now: u32) -> u32 {
        // CAST: Any 32 bits.
        now.wrapping_add(self.hash.pair([self.addresses, of::CLOCK]) as u32)
    }
}

/// The code of the number.
fn number(whole: u64) -> u32 {
    // CAST: The bits that the mask leaves.
    whole as u32 & 0xff00
}

/// The code of the connection, with the options in it.
fn connection(base: u64, options: u8) -> u32 {
    // CAST: The bits that the mask leaves.
    (base as u32 ^ (u32::from(options) << 16)) & 0xffff_0000
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
        fn pair(&self, words: [u64; 2]) -> u64 {
            let mut hasher = DefaultHasher::new();
            (self.0, words).hash(&mut hasher);
            hasher.finish()
        }

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
        let ends = Ends::new(&key, &tuple(4711));
        let ack = ends.make(Seq(100), &said, 5).add(1);
        let check = |seq, now| ends.check(Seq(seq), ack, now);
        assert!(matches!(check(101, 5), Verdict::First(it, _) if it == said));
        let early = (102..1102).filter(|&seq| check(seq, 5) == Verdict::Early);
        assert!(early.count() > 950);
        // What acknowledges more is of a connection that is there, or has been.
        let late = (1..4000).filter(|&n| ends.check(Seq(200), ack.add(n), 5) != Verdict::Stranger);
        assert!(late.count() <= 4000 / 256);
    }

    proptest! {
        #[test]
        fn a_cookie_is_good_for_its_own_connection_and_time(
            key: u64, port in 1..u16::MAX, isn: u32, now: u32, bits: u8, age in 0..TICKS * TICK
        ) {
            let (key, said) = (Key(key), Said::decode(bits));
            let cookie = Ends::new(&key, &tuple(port)).make(Seq(isn), &said, now);
            let check = |key: &Key, port, seq: Seq, ack: Seq, now| {
                Ends::new(key, &tuple(port)).check(seq, ack, now)
            };
            let first = |key: &Key, port, seq: Seq, ack: Seq, now| {
                matches!(check(key, port, seq, ack, now), Verdict::First(..))
            };
            let (seq, ack) = (Seq(isn).add(1), cookie.add(1));
            let verdict = check(&key, port, seq, ack, now.wrapping_add(age));
            let Verdict::First(told, print) = verdict else {
                return Err(TestCaseError::fail("no answer to it"));
            };
            prop_assert_eq!(told, said);
            // A copy is known by its word, however late it is, and nothing else is.
            let later = now.wrapping_add(TICKS * TICK);
            prop_assert_eq!(check(&key, port, seq, ack, later), verdict);
            let other = Ends::new(&key, &tuple(port)).make(Seq(isn).add(1), &said, now).add(1);
            let other = check(&key, port, seq.add(1), other, now);
            prop_assert!(matches!(other, Verdict::First(_, it) if it >> 16 != print >> 16));
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
            let clock = |port, now| Ends::new(&key, &tuple(port)).clock(now);
            let before = clock(1, now);
            let after = clock(2, now.wrapping_add(later.into()));
            prop_assert_eq!(after.wrapping_sub(before), u32::from(later));
        }
    }
}
