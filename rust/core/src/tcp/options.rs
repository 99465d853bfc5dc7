// SPDX-License-Identifier: GPL-2.0

//! TCP options: walking a list, reading it, writing one.
//!
//! Where a list leaves room for doubt, this reads it as Linux does (`tcp_parse_options()`), because
//! the TCP between the modules is Linux's. The exception is a list that cannot be walked: Linux
//! keeps what it has read so far, this refuses the whole.

use super::{
    Sack,
    HEADER_LEN,
    MAX_HEADER_LEN, //
};

/// The numbers of the options.
pub mod option {
    /// End of the list.
    pub const EOL: u8 = 0;
    /// Padding.
    pub const NOP: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale.
    pub const WSCALE: u8 = 3;
    /// Selective acknowledgements are permitted.
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgement.
    pub const SACK: u8 = 5;
    /// Timestamps.
    pub const TIMESTAMPS: u8 = 8;
    /// MD5 signature (RFC 2385).
    pub const MD5: u8 = 19;
    /// Authentication (RFC 5925).
    pub const AO: u8 = 29;
    /// Multipath TCP (RFC 8684).
    pub const MPTCP: u8 = 30;
    /// Fast Open cookie (RFC 7413).
    pub const FAST_OPEN: u8 = 34;
    /// Accurate ECN, order 0 (RFC 9768).
    pub const ACC_ECN_0: u8 = 172;
    /// Accurate ECN, order 1 (RFC 9768).
    pub const ACC_ECN_1: u8 = 174;
    /// Experiments (RFC 6994); the next two bytes tell them apart.
    pub const EXPERIMENT_1: u8 = 253;
    /// Experiments (RFC 6994).
    pub const EXPERIMENT_2: u8 = 254;
}

/// The largest shift count of the window scale option (RFC 7323, section 2.3).
pub const MAX_WSCALE: u8 = 14;

/// A list of options that cannot be walked: a length below 2, or one that leads out of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// An option as it stands in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt<'a> {
    /// Where its first byte, the kind, lies in the header.
    pub at: usize,
    /// Its number.
    pub kind: u8,
    /// What follows kind and length.
    pub data: &'a [u8],
}

impl Opt<'_> {
    /// Whether this asks for Fast Open, by its own number or as the experiment that it once was.
    #[must_use]
    pub fn is_fast_open(&self) -> bool {
        match self.kind {
            option::FAST_OPEN => true,
            option::EXPERIMENT_1 | option::EXPERIMENT_2 => self.data.starts_with(&EXID_FAST_OPEN),
            _ => false,
        }
    }
}

/// Walks a list of options, without [`option::NOP`] and up to [`option::EOL`]; ends after an error.
#[derive(Clone, Debug)]
pub struct OptionIter<'a> {
    /// The length of the whole header.
    len: usize,
    /// What has not been walked yet; the end of the header.
    rest: &'a [u8],
}

impl<'a> OptionIter<'a> {
    /// Walks `options`, the end of the header `header`.
    pub(crate) fn new(header: &'a [u8], options: &'a [u8]) -> Self {
        Self {
            len: header.len(),
            rest: options,
        }
    }
}

impl<'a> Iterator for OptionIter<'a> {
    type Item = Result<Opt<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, tail) = self.rest.split_first()?;
            match kind {
                option::EOL => self.rest = &[],
                option::NOP => self.rest = tail,
                _ => {
                    let at = self.len.wrapping_sub(self.rest.len());
                    let len = tail.first().map_or(0, |len| usize::from(*len));
                    let Some((opt, rest)) = self.rest.split_at_checked(len) else {
                        self.rest = &[];
                        return Some(Err(Malformed));
                    };
                    let Some(data) = opt.get(2..) else {
                        self.rest = &[];
                        return Some(Err(Malformed));
                    };
                    self.rest = rest;
                    return Some(Ok(Opt { at, kind, data }));
                }
            }
        }
    }
}

/// The timestamps option (RFC 7323, section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock.
    pub val: u32,
    /// The newest clock value of the receiver that the sender saw; valid with [`flag::ACK`] only.
    pub ecr: u32,
}

impl Timestamps {
    /// Those in a list that has nothing else, aligned as everybody does it (RFC 7323, appendix A).
    pub(super) fn alone(list: &[u8]) -> Option<Self> {
        match *list {
            [option::NOP, option::NOP, option::TIMESTAMPS, 10, a, b, c, d, e, f, g, h] => {
                Some(Self {
                    val: u32::from_be_bytes([a, b, c, d]),
                    ecr: u32::from_be_bytes([e, f, g, h]),
                })
            }
            _ => None,
        }
    }
}

/// The options that a handoff carries, and those that rule it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale, at most [`MAX_WSCALE`].
    pub wscale: Option<u8>,
    /// Selective acknowledgements are permitted.
    pub sack_ok: bool,
    /// Timestamps.
    pub ts: Option<Timestamps>,
    /// There is an MD5 or AO signature: no segment of the connection may be altered. Never built.
    pub signed: bool,
    /// There is a Fast Open option, in either encoding. Never built.
    pub fast_open: bool,
    /// There is a Multipath TCP option. Never built.
    pub mptcp: bool,
}

/// Tells Fast Open among the experiments (RFC 7413, appendix A).
const EXID_FAST_OPEN: [u8; 2] = [0xf9, 0x89];

impl Options {
    /// Reads a list of options.
    pub(super) fn collect(list: OptionIter<'_>) -> Result<Self, Malformed> {
        let mut options = Self::default();
        for opt in list {
            options.note(&opt?);
        }
        Ok(options)
    }

    /// Takes up one option. One with a wrong length is passed over; of several of a kind the
    /// last one counts.
    fn note(&mut self, opt: &Opt<'_>) {
        match (opt.kind, opt.data) {
            // An MSS of 0 is as good as none.
            (option::MSS, &[0, 0]) => {}
            (option::MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (option::WSCALE, &[shift]) => self.wscale = Some(shift.min(MAX_WSCALE)),
            (option::SACK_PERMITTED, &[]) => self.sack_ok = true,
            (option::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.ts = Some(Timestamps {
                    val: u32::from_be_bytes([a, b, c, d]),
                    ecr: u32::from_be_bytes([e, f, g, h]),
                });
            }
            (option::MD5 | option::AO, _) => self.signed = true,
            (option::MPTCP, _) => self.mptcp = true,
            _ if opt.is_fast_open() => self.fast_open = true,
            _ => {}
        }
    }

    /// Writes the options and the blocks of `sack` to `out` as Linux orders and aligns them, and
    /// returns their length, a multiple of 4.
    pub(super) fn write(&self, out: &mut [u8; MAX_HEADER_LEN - HEADER_LEN], sack: &Sack) -> usize {
        let mut list = List { out, len: 0 };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            list.push(&[option::MSS, 4, a, b]);
        }
        let permitted = [option::SACK_PERMITTED, 2];
        let pad = [option::NOP, option::NOP];
        if let Some(ts) = self.ts {
            list.push(if self.sack_ok { &permitted } else { &pad });
            list.push(&[option::TIMESTAMPS, 10]);
            list.push(&ts.val.to_be_bytes());
            list.push(&ts.ecr.to_be_bytes());
        } else if self.sack_ok {
            list.push(&pad);
            list.push(&permitted);
        }
        if let Some(shift) = self.wscale {
            list.push(&[option::NOP, option::WSCALE, 3, shift.min(MAX_WSCALE)]);
        }
        let blocks = sack.blocks();
        if !blocks.is_empty() {
            // CAST, OVERFLOW: there are no more than `MAX_SACK`.
            let len = (2 + 8 * blocks.len()) as u8;
            list.push(&[option::NOP, option::NOP, option::SACK, len]);
            for (start, end) in blocks {
                list.push(&start.0.to_be_bytes());
                list.push(&end.0.to_be_bytes());
            }
        }
        list.len
    }
}

/// Appends to the room that a header has for options.
struct List<'a> {
    /// The room.
    out: &'a mut [u8],
    /// How much of it is filled.
    len: usize,
}

impl List<'_> {
    /// Appends `bytes`, if there is room: what [`Options`] can hold takes 20 bytes at most, what
    /// goes with a [`Sack`] 12, and that itself 28.
    fn push(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(to) = self.out.get_mut(self.len..end) {
            to.copy_from_slice(bytes);
            self.len = end;
        }
    }
}
