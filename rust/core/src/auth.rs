// SPDX-License-Identifier: GPL-2.0

//! How the records of a control connection are signed: docs/handoff-protocol.md, "Signatures".
//!
//! The nodes share cluster keys, known by a number. For each connection and direction a key is
//! derived from one of them and from both HELLOs, whose nonces make it a new one. By it each record
//! has a tag, which also covers how many records came before it:
//!
//! ```text
//! derived = HMAC-SHA256(cluster key, label | direction u8 | connector's HELLO | acceptor's HELLO)
//! tag     = HMAC-SHA256(derived, sequence number u64 | record), its first 16 bytes
//! ```
//!
//! The first record behind HELLO is a KEY. It says which cluster key it and what follows are signed
//! with, and is the proof that the sender has it. Another KEY may follow at any time.
//!
//! The hash itself is the caller's: the kernel's, or a crate's in tests.

use crate::wire::{
    Header,
    Kind,
    Record,
    HEADER_LEN,
    HELLO_LEN,
    KEY_LEN, //
};

/// The size of a tag.
pub const TAG_LEN: usize = 16;

/// The size of a cluster key.
pub const SECRET_LEN: usize = 32;

/// The size of a KEY with its tag.
pub const SIGNED_KEY_LEN: usize = KEY_LEN + TAG_LEN;

/// What a derivation begins with, so that no other use of a cluster key yields the same.
const LABEL: &[u8; 16] = b"CARISMA control\0";

/// How far away, in records, a tag is looked for that is not the one expected. It only tells what
/// is counted: the connection is closed anyway.
const NEAR: u64 = 8;

/// A key of HMAC-SHA256 (RFC 2104, FIPS 180-4).
pub trait Key: Sized {
    /// Why there may be none.
    type Error;

    /// The tag of these parts, one behind the other.
    fn tag(&self, parts: &[&[u8]]) -> [u8; 32];

    /// The key whose bytes are such a tag.
    fn derive(&self, parts: &[&[u8]]) -> Result<Self, Self::Error>;

    /// Whether both are the same, in a time that does not tell where they differ.
    fn same(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> bool;
}

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The one that connected.
    Connector = 0,
    /// The one that was connected to.
    Acceptor = 1,
}

impl End {
    /// The other end.
    const fn other(self) -> Self {
        match self {
            Self::Connector => Self::Acceptor,
            Self::Acceptor => Self::Connector,
        }
    }
}

/// Why a record is not believed. The connection is closed, as the stream cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<E> {
    /// The peer has not shown that it has the key which it names, or names none.
    Unproven,
    /// The peer names a key that is not here.
    UnknownKey,
    /// The record came a moment ago.
    Replayed,
    /// The record came before its turn.
    Reordered,
    /// The tag is none of this connection's near here.
    Forged,
    /// It is no record, or there is less than its tag.
    Malformed,
    /// The key could not be derived.
    Failed(E),
}

/// One direction of a connection.
struct Direction<K> {
    key: K,
    /// How many records there were.
    count: u64,
}

impl<K: Key> Direction<K> {
    /// The tag of a record, as the one of this number.
    fn tag(key: &K, number: u64, record: &[u8]) -> [u8; TAG_LEN] {
        let whole = key.tag(&[&number.to_be_bytes(), record]);
        let mut tag = [0; TAG_LEN];
        // The one is longer than the other.
        for (to, from) in tag.iter_mut().zip(whole) {
            *to = from;
        }
        tag
    }

    /// Whether a record is the one of this number.
    fn is(key: &K, number: u64, record: &[u8], tag: &[u8; TAG_LEN]) -> bool {
        K::same(&Self::tag(key, number, record), tag)
    }
}

/// Signs and checks the records of one connection.
///
/// Records are numbered from 0 in each direction. The numbers are not on the wire.
pub struct Session<K> {
    /// Both HELLOs, the connector's first.
    hellos: [[u8; HELLO_LEN]; 2],
    end: End,
    sending: Option<Direction<K>>,
    receiving: Option<Direction<K>>,
}

impl<K: Key> Session<K> {
    /// A connection whose ends have said these HELLOs.
    pub fn new(end: End, ours: [u8; HELLO_LEN], theirs: [u8; HELLO_LEN]) -> Self {
        Self {
            hellos: match end {
                End::Connector => [ours, theirs],
                End::Acceptor => [theirs, ours],
            },
            end,
            sending: None,
            receiving: None,
        }
    }

    /// The key of what an end sends.
    fn derive(&self, cluster: &K, from: End) -> Result<K, K::Error> {
        let [connector, acceptor] = &self.hellos;
        // CAST: The number of a variant.
        cluster.derive(&[LABEL, &[from as u8], connector, acceptor])
    }

    /// Signs with a cluster key from now on. Returns the KEY record that has to be sent next, with
    /// its tag.
    pub fn sign_with(&mut self, id: u8, cluster: &K) -> Result<[u8; SIGNED_KEY_LEN], K::Error> {
        let key = self.derive(cluster, self.end)?;
        let count = self.sending.as_ref().map_or(0, |it| it.count);
        self.sending = Some(Direction { key, count });
        let mut signed = [0; SIGNED_KEY_LEN];
        if let Some((record, tag)) = signed.split_last_chunk_mut() {
            // It fits.
            let _ = Record::Key(id).encode(record);
            // There is a key: see above.
            *tag = self.seal(record).unwrap_or_default();
        }
        Ok(signed)
    }

    /// The tag of the next record, which has to be sent; `None` before [`Self::sign_with`].
    pub fn seal(&mut self, record: &[u8]) -> Option<[u8; TAG_LEN]> {
        let sending = self.sending.as_mut()?;
        let tag = Direction::tag(&sending.key, sending.count, record);
        // OVERFLOW: It takes centuries.
        sending.count = sending.count.wrapping_add(1);
        Some(tag)
    }

    /// Whether the peer has proved that it has a cluster key.
    pub fn is_proven(&self) -> bool {
        self.receiving.is_some()
    }

    /// Checks the next record that came. If it is a KEY, `find` gives the cluster key of its number,
    /// and the number is returned.
    pub fn open<'k>(
        &mut self,
        record: &[u8],
        tag: &[u8; TAG_LEN],
        find: impl FnOnce(u8) -> Option<&'k K>,
    ) -> Result<Option<u8>, Fault<K::Error>>
    where
        K: 'k,
    {
        let kind = Header::parse(record).map_err(|_| Fault::Malformed)?.kind;
        let named = match kind {
            Kind::Key => match Record::parse(record) {
                Ok(Record::Key(id)) => Some(id),
                _ => return Err(Fault::Malformed),
            },
            _ => None,
        };
        let Some(id) = named else {
            let receiving = self.receiving.as_mut().ok_or(Fault::Unproven)?;
            check(&receiving.key, receiving.count, record, tag)?;
            receiving.count = receiving.count.wrapping_add(1);
            return Ok(None);
        };
        let cluster = find(id).ok_or(Fault::UnknownKey)?;
        let key = self
            .derive(cluster, self.end.other())
            .map_err(Fault::Failed)?;
        let count = match &self.receiving {
            None if Direction::is(&key, 0, record, tag) => 0,
            None => return Err(Fault::Unproven),
            Some(receiving) => {
                check(&key, receiving.count, record, tag)?;
                receiving.count
            }
        };
        self.receiving = Some(Direction {
            key,
            count: count.wrapping_add(1),
        });
        Ok(named)
    }
}

/// Checks that a record is the next one; if not, what is the matter with it.
fn check<K: Key>(
    key: &K,
    next: u64,
    record: &[u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Fault<K::Error>> {
    let any = |mut numbers: core::ops::Range<u64>| {
        numbers.any(|number| Direction::is(key, number, record, tag))
    };
    if Direction::is(key, next, record, tag) {
        Ok(())
    } else if any(next.saturating_sub(NEAR)..next) {
        Err(Fault::Replayed)
    } else if any(next.saturating_add(1)..next.saturating_add(NEAR).saturating_add(1)) {
        Err(Fault::Reordered)
    } else {
        Err(Fault::Forged)
    }
}

/// Cuts a record off a stream, with its tag if records have one. `None` if it is not whole yet.
pub fn cut(bytes: &[u8], signed: bool) -> Result<Option<Cut<'_>>, crate::wire::Refused> {
    if bytes.len() < HEADER_LEN {
        return Ok(None);
    }
    let header = Header::parse(bytes)?;
    let Some((record, rest)) = bytes.split_at_checked(header.len) else {
        return Ok(None);
    };
    if !signed {
        return Ok(Some(Cut {
            header,
            record,
            tag: &[0; TAG_LEN],
            rest,
        }));
    }
    Ok(rest.split_first_chunk().map(|(tag, rest)| Cut {
        header,
        record,
        tag,
        rest,
    }))
}

/// A record that was cut off a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<'a> {
    /// What its header says.
    pub header: Header,
    /// The record.
    pub record: &'a [u8],
    /// Its tag; zeroes if records have none.
    pub tag: &'a [u8; TAG_LEN],
    /// What comes behind.
    pub rest: &'a [u8],
}

/// Why there is no connection to a node, for people to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// It says that it is somebody else.
    Strange = 0,
    /// It speaks another version of the protocol.
    Version = 1,
    /// One of the two nodes has keys and the other has none.
    Unauthenticated = 2,
    /// It signs with a key that this node does not have.
    UnknownKey = 3,
    /// It did not prove that it has the key.
    Unproven = 4,
}

impl Trouble {
    /// The one of this number.
    #[must_use]
    pub fn of(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Strange,
            1 => Self::Version,
            2 => Self::Unauthenticated,
            3 => Self::UnknownKey,
            4 => Self::Unproven,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
