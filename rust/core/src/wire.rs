// SPDX-License-Identifier: GPL-2.0

//! The records that nodes exchange over their control connections, version 5.
//!
//! `docs/handoff-protocol.md` draws them and says when each is sent. Everything is big-endian and
//! without padding that is not a field:
//!
//! ```text
//! every record   version u8 = 5 | kind u8 | length u16 | reserved u32 = 0
//! HELLO     1    epoch u64 | name 16 bytes | nonce 32 bytes | flags u16 (1: signs) | reserved u16 = 0
//! every other but KEY    id u64 | tuple 36 bytes (the receiver's)
//! REQ       2    vip 16 bytes | vip port u16 | flags u16 (1: replay) | ts_now u32 |
//!                rtt u16 | reserved u16 = 0
//!                SYN's length u8 | SYN-ACK's u8 | ACK's u8 | reserved u8 = 0 | the three headers
//! ACCEPT    3    -
//! REJECT    4    reason u16 | reserved u16 = 0
//! DATA      5    vip 16 bytes | seq u32 | ack u32 | tsval u32 | window u16 | vip port u16 |
//!                1 or more bytes
//! ABORT     6    -
//! CLOSED    7    flags u16 (1: linger) | reserved u16 = 0
//! TAKEN     8    -
//! CHECK     9    vip 16 bytes | vip port u16 | reserved u16 = 0
//! SEEK     11    -
//! OWN      12    addr 16 bytes | port u16 | reserved u16 = 0
//! KEY      10    key's id u8 | reserved 3 bytes = 0 (neither id nor tuple)
//! ```
//!
//! On a connection whose ends sign, a tag follows each record but HELLO ([`crate::auth`]).
//!
//! A record says each thing in one way only: whatever parses is encoded to the same bytes again.
//! Nothing in a record is believed because it is well-formed; that is for the state machines.

use crate::{
    seq::Seq,
    tcp::{
        flag,
        Header as Tcp,
        SynFacts, //
    },
    tuple::{
        Addr,
        Tuple, //
    },
};
use core::mem::size_of;
use zerocopy::{
    byteorder::network_endian::{
        U16,
        U32,
        U64, //
    },
    FromBytes,
    IntoBytes, //
};

mod name;
mod raw;

pub use name::Name;
use raw::{
    RawCheck,
    RawClosed,
    RawData,
    RawHandoff,
    RawHeader,
    RawHello,
    RawKey,
    RawReject,
    RawReq, //
};

/// The version of the format.
pub const VERSION: u8 = 5;

/// The size of the header that every record begins with.
pub const HEADER_LEN: usize = size_of::<RawHeader>();

/// The size of the longest record.
pub const MAX_LEN: usize = 0xffff;

/// The size of a HELLO.
pub const HELLO_LEN: usize = HEADER_LEN + size_of::<RawHello>();

/// The size of a KEY.
pub const KEY_LEN: usize = HEADER_LEN + size_of::<RawKey>();

/// The size of the number that each end draws for a connection.
pub const NONCE_LEN: usize = 32;

/// The size of what all records but HELLO and KEY begin with.
const HANDOFF_LEN: usize = HEADER_LEN + size_of::<RawHandoff>();

/// The size of the longest REQ: no header of TCP has more than 60 bytes.
const MAX_REQ_LEN: usize = HANDOFF_LEN + size_of::<RawReq>() + 3 * crate::tcp::MAX_HEADER_LEN;

/// The size of the shortest REQ.
const MIN_REQ_LEN: usize = HANDOFF_LEN + size_of::<RawReq>() + 3 * crate::tcp::HEADER_LEN;

/// The size of a DATA record without its bytes.
pub const DATA_OVERHEAD: usize = HANDOFF_LEN + size_of::<RawData>();

/// How many bytes a DATA record can carry.
pub const MAX_DATA: usize = MAX_LEN - DATA_OVERHEAD;

/// In [`RawHello::flags`]: the sender signs its records, and takes none that are not signed.
const HELLO_SIGNS: u16 = 1;

/// In [`RawReq::flags`]: the connection is not to be adopted.
const REQ_REPLAY: u16 = 1;

/// In [`RawClosed::flags`]: BE's TCP keeps the tuple in TIME_WAIT.
const CLOSED_LINGER: u16 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first record each way: who speaks.
    Hello = 1,
    /// FE asks BE to take a connection.
    Req = 2,
    /// BE's TCP has the connection; its server does not see it yet.
    Accept = 3,
    /// BE does not take it.
    Reject = 4,
    /// What FE holds of the client's bytes. It commits the handoff.
    Data = 5,
    /// FE takes back what it asked for and has not committed.
    Abort = 6,
    /// The connection has ended at BE.
    Closed = 7,
    /// BE has got DATA: the connection is its own.
    Taken = 8,
    /// FE asks whether BE still has the connection: CLOSED may have been lost.
    Check = 9,
    /// The sender signs this record and all that follow with this key.
    Key = 10,
    /// FE has a segment of a connection that it knows nothing of, and asks whether BE serves it.
    Seek = 11,
    /// BE does, for this FE from now on.
    Own = 12,
}

impl Kind {
    /// The kind with a number, if there is one.
    fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Req,
            3 => Self::Accept,
            4 => Self::Reject,
            5 => Self::Data,
            6 => Self::Abort,
            7 => Self::Closed,
            8 => Self::Taken,
            9 => Self::Check,
            10 => Self::Key,
            11 => Self::Seek,
            12 => Self::Own,
            _ => return None,
        })
    }

    /// The shortest and the longest that a record of this kind can be.
    #[must_use]
    pub const fn len_range(self) -> (usize, usize) {
        const fn exactly(len: usize) -> (usize, usize) {
            (len, len)
        }
        match self {
            Self::Hello => exactly(HELLO_LEN),
            Self::Key => exactly(KEY_LEN),
            Self::Req => (MIN_REQ_LEN, MAX_REQ_LEN),
            Self::Accept | Self::Abort | Self::Taken | Self::Seek => exactly(HANDOFF_LEN),
            Self::Reject => exactly(HANDOFF_LEN + size_of::<RawReject>()),
            Self::Data => (DATA_OVERHEAD + 1, MAX_LEN),
            Self::Closed => exactly(HANDOFF_LEN + size_of::<RawClosed>()),
            Self::Check | Self::Own => exactly(HANDOFF_LEN + size_of::<RawCheck>()),
        }
    }
}

/// Why bytes are no record. The stream that they came by cannot be trusted to be in step after
/// it, so the connection is closed and the reason counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is less than a header.
    Short,
    /// Another version of the format.
    Version(u8),
    /// No kind of this version.
    Kind(u8),
    /// A length that is too short for the kind, or another one than there are bytes.
    Length,
    /// A length that is too long for the kind.
    Oversize,
    /// A reserved field or an unknown flag is not 0.
    Reserved,
    /// A node's name that cannot be one.
    Name,
    /// A tuple that cannot name a connection.
    Tuple,
    /// Three headers that are not one handshake, or not that of the record's addresses.
    Handshake,
}

/// The header of a record, by which a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// The length of the whole record, this header included; one that the kind can have.
    pub len: usize,
}

impl Header {
    /// Reads the header at the beginning of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| Refused::Short)?;
        if raw.version != VERSION {
            return Err(Refused::Version(raw.version));
        }
        let kind = Kind::of(raw.kind).ok_or(Refused::Kind(raw.kind))?;
        zero(raw.reserved.get())?;
        let len = usize::from(raw.length.get());
        let (min, max) = kind.len_range();
        if len < min {
            return Err(Refused::Length);
        }
        if len > max {
            return Err(Refused::Oversize);
        }
        Ok(Self { kind, len })
    }
}

/// Whether this begins as a HELLO of another version does: the header is the same in all of them.
#[must_use]
pub fn is_foreign(bytes: &[u8]) -> bool {
    RawHeader::ref_from_prefix(bytes).is_ok_and(|(raw, _)| {
        raw.version != VERSION && raw.kind == Kind::Hello as u8 && raw.reserved.get() == 0
    })
}

/// Refuses a reserved field that is not 0.
fn zero(field: impl Into<u32>) -> Result<(), Refused> {
    if field.into() == 0 {
        Ok(())
    } else {
        Err(Refused::Reserved)
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Who speaks.
    Hello(Hello),
    /// The number of the key that the sender signs with.
    Key(u8),
    /// A record of one handoff.
    Handoff(Handoff<'a>),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Another one whenever the peer's module was loaded anew: its state is gone.
    pub epoch: u64,
    /// The peer's name.
    pub name: Name,
    /// Another one for each connection, which nobody can guess.
    pub nonce: [u8; NONCE_LEN],
    /// The sender signs its records, and takes none that are not signed.
    pub signs: bool,
}

/// A record of one handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handoff<'a> {
    /// The handoff, by the number that FE gave it. With FE's epoch it is never used twice, so
    /// that a late record cannot be taken for one of a later connection with the same tuple.
    pub id: u64,
    /// The connection, as the receiver's TCP knows it.
    pub tuple: Tuple,
    /// What is said.
    pub body: Body<'a>,
}

/// What a record says of a handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// See [`Kind::Req`].
    Req(Req<'a>),
    /// See [`Kind::Accept`].
    Accept,
    /// See [`Kind::Reject`].
    Reject(Reason),
    /// See [`Kind::Data`].
    Data(Data<'a>),
    /// See [`Kind::Abort`].
    Abort,
    /// See [`Kind::Taken`].
    Taken,
    /// See [`Kind::Closed`].
    Closed {
        /// BE's TCP keeps the tuple in TIME_WAIT: FE goes on forwarding as long.
        linger: bool,
    },
    /// See [`Kind::Check`].
    Check {
        /// The address that the client talks to: BE may not know it any more.
        vip: Addr,
        /// The port that the client talks to.
        vip_port: u16,
    },
    /// See [`Kind::Seek`].
    Seek,
    /// See [`Kind::Own`].
    Own {
        /// The address by which BE's TCP has the connection, the VIP or its own.
        addr: Addr,
        /// The port.
        port: u16,
    },
}

/// What BE needs to make its TCP have the connection (paper, section 4: "the SYN and ACK packets
/// from the client and the TCP initial sequence number returned by TCP_FE").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Req<'a> {
    /// The address that the client talks to.
    pub vip: Addr,
    /// The port that the client talks to.
    pub vip_port: u16,
    /// A value of FE's TSval clock that no segment of FE's TCP to this client will exceed.
    pub ts_now: u32,
    /// The round trip between the client and FE, in milliseconds; 0 if FE does not know it.
    pub rtt: u16,
    /// BE is to replay the handshake, even if it could adopt the connection.
    pub replay: bool,
    /// The handshake between the client and FE.
    pub handshake: Handshake<'a>,
}

/// The three TCP headers of a handshake, checked to belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The client's SYN.
    syn: Tcp<'a>,
    /// FE's SYN-ACK.
    syn_ack: Tcp<'a>,
    /// The client's acknowledgement.
    ack: Tcp<'a>,
    /// What the SYN fixed.
    client: SynFacts,
    /// What the SYN-ACK fixed.
    server: SynFacts,
}

impl<'a> Handshake<'a> {
    /// The handshake of these headers, if they are one: the client's SYN, the answer to it, and
    /// any segment of the client that acknowledges the answer and no more.
    #[must_use]
    pub fn new(syn: Tcp<'a>, syn_ack: Tcp<'a>, ack: Tcp<'a>) -> Option<Self> {
        let client = SynFacts::of_syn(&syn)?;
        let server = SynFacts::of_syn_ack(&syn_ack)?;
        ack.timestamps().ok()?;
        let ports = (syn.source(), syn.dest());
        let fits = syn_ack.ack() == client.isn.add(1)
            && ack.flags() & (flag::SYN | flag::ACK | flag::RST) == flag::ACK
            && ack.ack() == server.isn.add(1)
            && ack.seq().gt(client.isn)
            && (syn_ack.dest(), syn_ack.source()) == ports
            && (ack.source(), ack.dest()) == ports;
        fits.then_some(Self {
            syn,
            syn_ack,
            ack,
            client,
            server,
        })
    }

    /// What the client's SYN fixed.
    #[must_use]
    pub fn client(&self) -> &SynFacts {
        &self.client
    }

    /// What FE's SYN-ACK fixed.
    #[must_use]
    pub fn server(&self) -> &SynFacts {
        &self.server
    }

    /// The client's SYN.
    #[must_use]
    pub fn syn(&self) -> Tcp<'a> {
        self.syn
    }

    /// FE's SYN-ACK.
    #[must_use]
    pub fn syn_ack(&self) -> Tcp<'a> {
        self.syn_ack
    }

    /// The client's acknowledgement.
    #[must_use]
    pub fn ack(&self) -> Tcp<'a> {
        self.ack
    }
}

/// Why BE does not take a connection. FE only counts it: whatever it is, FE goes on to the next
/// candidate or serves the request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No such service here, or nobody listens.
    NoService,
    /// The tuple is taken by another connection.
    InUse,
    /// A bound of BE's has been reached, or memory.
    NoRoom,
    /// BE's TCP agreed to other options than FE's, and not all of it can be translated.
    Mismatch,
    /// BE's TCP answered the replay with a reset, or not in time, or the client is BE itself, to whom it
    /// would not.
    Unanswered,
    /// BE is being drained or unloaded.
    Draining,
    /// The answer to DATA of a handoff that BE does not know, or not any more; and to SEEK.
    Unknown,
    /// The address that FE would forward to is none of BE's.
    NoAddress,
    /// A reason of a later minor change, to be counted as any other.
    Other(u16),
}

impl Reason {
    /// The reason with a number.
    #[must_use]
    pub fn of(number: u16) -> Self {
        match number {
            1 => Self::NoService,
            2 => Self::InUse,
            3 => Self::NoRoom,
            4 => Self::Mismatch,
            5 => Self::Unanswered,
            6 => Self::Draining,
            7 => Self::Unknown,
            8 => Self::NoAddress,
            other => Self::Other(other),
        }
    }

    /// The reason's number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::NoService => 1,
            Self::InUse => 2,
            Self::NoRoom => 3,
            Self::Mismatch => 4,
            Self::Unanswered => 5,
            Self::Draining => 6,
            Self::Unknown => 7,
            Self::NoAddress => 8,
            Self::Other(other) => other,
        }
    }
}

/// What FE holds of the client's bytes, all of them acknowledged to the client or about to be, and
/// what the client said last in its other fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// The address that the client talks to.
    pub vip: Addr,
    /// The port that the client talks to.
    pub vip_port: u16,
    /// The number of the first byte.
    pub seq: Seq,
    /// The newest acknowledgement number of the client, in FE's numbers.
    pub ack: Seq,
    /// The TSval that the bytes are given to TCP with; 0 if timestamps were not agreed.
    pub tsval: u32,
    /// The client's newest window, not scaled.
    pub window: u16,
    /// The bytes; at least one.
    pub bytes: &'a [u8],
}

mod decode;
mod encode;

#[cfg(test)]
mod tests;
