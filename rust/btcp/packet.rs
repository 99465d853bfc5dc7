// SPDX-License-Identifier: GPL-2.0

//! Segments that BTCP makes.

use carisma_core::{
    csum::IPPROTO_TCP,
    ipv4,
    tcp::Build,
    tuple::{v4_mapped, v4_of, Tuple},
};
use carisma_net::skb::Skb;
use kernel::prelude::*;

/// The payload of a segment that is given to TCP here. Of the size of one from the wire, so that
/// TCP's estimate of the client's segments stays right.
pub(crate) const SEGMENT: usize = 1400;

/// The hops that a segment of ours may take.
const TTL: u8 = 64;

/// A segment as though the client of `tuple` had sent it. Any context.
pub(crate) fn from_client(tuple: &Tuple, build: &Build, payload: &[u8]) -> Result<Skb> {
    make(&tuple.client, &tuple.local, build, payload)
}

/// A segment to the client of `tuple`. Any context.
pub(crate) fn to_client(tuple: &Tuple, build: &Build) -> Result<Skb> {
    make(&tuple.local, &tuple.client, build, &[])
}

fn make(src: &[u8; 16], dst: &[u8; 16], build: &Build, payload: &[u8]) -> Result<Skb> {
    let (src, dst) = (
        v4_of(src).ok_or(EAFNOSUPPORT)?,
        v4_of(dst).ok_or(EAFNOSUPPORT)?,
    );
    let len = build
        .header_len()
        .checked_add(payload.len())
        .ok_or(EMSGSIZE)?;
    let mut skb = Skb::new(len.checked_add(ipv4::HEADER_LEN).ok_or(EMSGSIZE)?)?;
    let (ip, tcp) = skb
        .bytes_mut()
        .split_at_mut_checked(ipv4::HEADER_LEN)
        .ok_or(EINVAL)?;
    let header = ipv4::Build {
        src,
        dst,
        protocol: IPPROTO_TCP,
        ttl: TTL,
        tos: 0,
        id: 0,
    };
    header.write(ip, len).ok_or(EMSGSIZE)?;
    build
        .write(tcp, &v4_mapped(src), &v4_mapped(dst), payload)
        .ok_or(EMSGSIZE)?;
    skb.set_transport(ipv4::HEADER_LEN);
    Ok(skb)
}
