// SPDX-License-Identifier: GPL-2.0

//! Segments that BTCP makes.

use carisma_core::{
    csum::IPPROTO_TCP,
    ip,
    tcp::Build,
    tuple::{link_of, on_link, Addr, Tuple},
};
use carisma_net::skb::Skb;
use kernel::prelude::*;

/// The payload of a segment that is given to TCP here. Of the size of one from the wire, so that
/// TCP's estimate of the client's segments stays right.
pub(crate) const SEGMENT: usize = 1400;

/// The hops that a segment of ours may take.
const HOPS: u8 = 64;

/// A segment as though the client of `tuple` had sent it. Any context.
pub(crate) fn from_client(tuple: &Tuple, build: &Build, payload: &[u8]) -> Result<Skb> {
    let mut skb = make(&tuple.client, &tuple.local, build, payload)?;
    skb.set_link(link_of(&tuple.client));
    Ok(skb)
}

/// A segment to the client of `tuple`. Any context.
pub(crate) fn to_client(tuple: &Tuple, build: &Build) -> Result<Skb> {
    let mut skb = make(&tuple.local, &tuple.client, build, &[])?;
    skb.set_link(link_of(&tuple.client));
    Ok(skb)
}

fn make(src: &Addr, dst: &Addr, build: &Build, payload: &[u8]) -> Result<Skb> {
    let (src, dst) = (on_link(src, 0), on_link(dst, 0));
    let len = build
        .header_len()
        .checked_add(payload.len())
        .ok_or(EMSGSIZE)?;
    let at = ip::header_len(&src);
    let mut skb = Skb::new(len.checked_add(at).ok_or(EMSGSIZE)?)?;
    let (header, tcp) = skb.bytes_mut().split_at_mut_checked(at).ok_or(EINVAL)?;
    let ip = ip::Build {
        src,
        dst,
        protocol: IPPROTO_TCP,
        hops: HOPS,
        class: 0,
    };
    ip.write(header, len).ok_or(EAFNOSUPPORT)?;
    build.write(tcp, &src, &dst, payload).ok_or(EMSGSIZE)?;
    skb.set_transport(at);
    Ok(skb)
}
