// SPDX-License-Identifier: GPL-2.0

//! The fixed parts of the records as they stand on the wire.

use super::{
    U16,
    U32,
    U64, //
};
use crate::tuple::{
    Addr,
    Tuple, //
};
use core::mem::size_of;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned, //
};

/// What every record begins with.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    /// [`super::VERSION`].
    pub(super) version: u8,
    /// A [`super::Kind`].
    pub(super) kind: u8,
    /// The length of the whole record.
    pub(super) length: U16,
    /// 0.
    pub(super) reserved: U32,
}

/// HELLO, behind the header.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHello {
    /// The epoch of the sender's module.
    pub(super) epoch: U64,
    /// The sender's name, padded with zeroes.
    pub(super) name: [u8; 16],
    /// What the sender drew for this connection.
    pub(super) nonce: [u8; super::NONCE_LEN],
    /// [`super::HELLO_SIGNS`] or 0.
    pub(super) flags: U16,
    /// 0.
    pub(super) reserved: U16,
}

/// KEY, behind the header.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawKey {
    /// The key's number.
    pub(super) id: u8,
    /// 0.
    pub(super) reserved: [u8; 3],
}

/// Every other record, behind the header.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHandoff {
    /// FE's number for the handoff.
    pub(super) id: U64,
    /// The receiver's tuple.
    pub(super) tuple: Tuple,
}

/// REQ, before the three headers.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawReq {
    /// The address that the client talks to.
    pub(super) vip: Addr,
    /// The port that the client talks to.
    pub(super) vip_port: U16,
    /// [`super::REQ_REPLAY`], or 0.
    pub(super) flags: U16,
    /// FE's TSval clock.
    pub(super) ts_now: U32,
    /// The round trip between the client and FE.
    pub(super) rtt: U16,
    /// 0.
    pub(super) zero: U16,
    /// The length of the SYN's header.
    pub(super) syn_len: u8,
    /// The length of the SYN-ACK's header.
    pub(super) syn_ack_len: u8,
    /// The length of the ACK's header.
    pub(super) ack_len: u8,
    /// 0.
    pub(super) reserved: u8,
}

/// REJECT.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawReject {
    /// A [`super::Reason`].
    pub(super) reason: U16,
    /// 0.
    pub(super) reserved: U16,
}

/// DATA, before the bytes.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawData {
    /// The address that the client talks to.
    pub(super) vip: Addr,
    /// The number of the first byte.
    pub(super) seq: U32,
    /// The client's newest acknowledgement number.
    pub(super) ack: U32,
    /// The TSval that the bytes are given to TCP with.
    pub(super) tsval: U32,
    /// The client's newest window.
    pub(super) window: U16,
    /// The port that the client talks to.
    pub(super) vip_port: U16,
}

/// CLOSED.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawClosed {
    /// [`super::CLOSED_LINGER`] or 0.
    pub(super) flags: U16,
    /// 0.
    pub(super) reserved: U16,
}

/// CHECK and OWN.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawCheck {
    /// The address that the client talks to, or that BE has for it.
    pub(super) addr: Addr,
    /// The port.
    pub(super) port: U16,
    /// 0.
    pub(super) reserved: U16,
}

const _: () = {
    assert!(size_of::<RawHeader>() == 8);
    assert!(size_of::<RawHello>() == 60);
    assert!(size_of::<RawKey>() == 4);
    assert!(size_of::<RawHandoff>() == 44);
    assert!(size_of::<RawReq>() == 32);
    assert!(size_of::<RawReject>() == 4);
    assert!(size_of::<RawData>() == 32);
    assert!(size_of::<RawClosed>() == 4);
    assert!(size_of::<RawCheck>() == 20);
};
