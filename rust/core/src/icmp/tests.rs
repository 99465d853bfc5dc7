// SPDX-License-Identifier: GPL-2.0

//! Tests of errors: what is rewritten is, bit by bit, the error that another segment would have
//! caused.

use super::*;
use crate::tuple::v4_mapped;
use proptest::prelude::*;
use std::{
    vec,
    vec::Vec, //
};

const ROUTER: Addr = v4_mapped([203, 0, 113, 9]);
const VIP: End = (v4_mapped([192, 0, 2, 1]), 80);
const BACK: End = (v4_mapped([10, 0, 0, 2]), 8080);
const CLIENT: End = (v4_mapped([198, 51, 100, 1]), 4711);

/// An IPv4 header with a right checksum, as the routers' own have options at times.
fn ip(protocol: u8, src: Addr, dst: Addr, options: &[u8], payload: usize) -> Vec<u8> {
    let len = 20 + options.len();
    let mut header = vec![0x40 | (len / 4) as u8, 0];
    header.extend_from_slice(&((len + payload) as u16).to_be_bytes());
    header.extend_from_slice(&[0x12, 0x34, 0x40, 0, 61, protocol, 0, 0]);
    header.extend_from_slice(&v4_of(&src).unwrap());
    header.extend_from_slice(&v4_of(&dst).unwrap());
    header.extend_from_slice(options);
    let check = Sum::new().append(&header).check();
    header[10..12].copy_from_slice(&check.to_be_bytes());
    header
}

/// What an error is about, and how it says so.
#[derive(Clone, Debug)]
struct Case {
    kind: (u8, u8),
    rest: [u8; 4],
    options: [Vec<u8>; 2],
    /// TCP header and payload, ports and checksum aside.
    segment: Vec<u8>,
    /// The bytes of the segment that are quoted.
    quoted: usize,
    /// What follows the quote (RFC 4884).
    extension: Option<Vec<u8>>,
}

const PLAIN: Case = Case {
    kind: (3, 4),
    rest: [0, 0, 0x04, 0xb0],
    options: [vec![], vec![]],
    segment: vec![],
    quoted: 8,
    extension: None,
};

impl Case {
    fn plain() -> Self {
        Self {
            segment: (0..60).collect(),
            ..PLAIN
        }
    }

    /// The error about a segment of this source, whose number was greater by `delta`.
    fn packet(&self, source: End, delta: u32, partial: bool) -> Vec<u8> {
        let mut segment = self.segment.clone();
        segment[..2].copy_from_slice(&source.1.to_be_bytes());
        segment[2..4].copy_from_slice(&CLIENT.1.to_be_bytes());
        let seq = u32::from_be_bytes(segment[4..8].try_into().unwrap());
        segment[4..8].copy_from_slice(&seq.wrapping_add(delta).to_be_bytes());
        segment[16..18].fill(0);
        let check = Sum::pseudo(&source.0, &CLIENT.0, segment.len() as u32)
            .append(&segment)
            .check();
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        let mut quote = ip(6, source.0, CLIENT.0, &self.options[1], segment.len());
        quote.extend_from_slice(&segment[..self.quoted]);
        let mut icmp = vec![self.kind.0, self.kind.1, 0, 0];
        icmp.extend_from_slice(&self.rest);
        if let Some(extension) = &self.extension {
            quote.resize(quote.len().next_multiple_of(4).max(128), 0);
            icmp[5] = (quote.len() / 4) as u8;
            quote.extend_from_slice(extension);
        } else {
            icmp[5] = 0;
        }
        icmp.extend_from_slice(&quote);
        if !partial {
            let check = Sum::new().append(&icmp).check();
            icmp[2..4].copy_from_slice(&check.to_be_bytes());
        }
        let mut packet = ip(1, ROUTER, source.0, &self.options[0], icmp.len());
        packet.extend_from_slice(&icmp);
        packet
    }
}

prop_compose! {
    fn any_case()(
        kind in prop_oneof![Just((3, 4)), (prop_oneof![Just(3u8), Just(11), Just(12)], any::<u8>())],
        rest: [u8; 4],
        words in (0usize..=10, 0usize..=10),
        fill in any::<u8>(),
        segment in prop::collection::vec(any::<u8>(), 20..600),
        extension in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        index: prop::sample::Index,
    ) -> Case {
        // Before an extension stands the whole datagram, or at least 128 bytes of it (RFC 4884,
        // section 4).
        let least = if extension.is_some() { segment.len().min(128) } else { 8 };
        let quoted = least + index.index(segment.len() - least + 1);
        // Half a checksum cannot be updated.
        let quoted = if quoted == 17 { 16 } else { quoted };
        let options = [vec![fill; 4 * words.0], vec![fill; 4 * words.1]];
        Case { kind, rest, options, segment, quoted, extension }
    }
}

proptest! {
    /// As though the other segment had caused it.
    #[test]
    fn rewriting_equals_the_other_error(
        case in any_case(),
        delta: u32,
        addr: [u8; 4],
        port: u16,
        partial: bool,
        head_only: bool,
    ) {
        let source = (v4_mapped(addr), port);
        let mut packet = case.packet(VIP, 0, partial);
        let expected = case.packet(source, delta, partial);
        let head = if head_only { HEAD_MAX.min(packet.len()) } else { packet.len() };
        let error = Error::parse(&packet[..head]).unwrap();
        prop_assert_eq!((error.source(), error.destination()), (VIP, CLIENT));
        prop_assert!(error.is_sound());
        prop_assert_eq!(error.rewrite(&mut packet[..head], source, delta, partial), Ok(()));
        prop_assert_eq!(&packet, &expected);
        let again = Error::parse(&packet).unwrap();
        prop_assert_eq!((again.source(), again.destination()), (source, CLIENT));
        // And back.
        again.rewrite(&mut packet, VIP, delta.wrapping_neg(), partial).unwrap();
        prop_assert_eq!(packet, case.packet(VIP, 0, partial));
    }

    /// A checksum that is wrong stays as wrong as it was.
    #[test]
    fn what_was_wrong_stays_wrong(case in any_case(), wrong in 1u16..0xffff, which in 0usize..3) {
        let mut packet = case.packet(VIP, 0, false);
        let error = Error::parse(&packet).unwrap();
        let at = [10, error.icmp + 2, error.ip + 10][which];
        let spoil = |packet: &mut [u8]| {
            let field = u16::from_be_bytes(packet[at..at + 2].try_into().unwrap());
            let sum = Sum::new()
                .append(&field.to_be_bytes())
                .append(&wrong.to_be_bytes())
                .folded();
            packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        };
        spoil(&mut packet);
        error.rewrite(&mut packet, BACK, 7, false).unwrap();
        let right = case.packet(BACK, 7, false);
        prop_assert_ne!(&packet[at..at + 2], &right[at..at + 2]);
    }

    /// Whatever comes, it is either refused and untouched, or only those fields have changed.
    #[test]
    fn no_bytes_are_too_odd(
        bytes in prop::collection::vec(prop_oneof![Just(0x45u8), Just(1), Just(3), Just(6), any::<u8>()], 0..120),
        mend: u8,
        delta: u32,
    ) {
        let mut bytes = bytes;
        // So that some get farther.
        for (bit, at, value) in [(1, 0, 0x45), (2, 9, 1), (4, 20, 3), (8, 28, 0x45), (16, 37, 6), (32, 2, 1)] {
            if let (true, Some(byte)) = (mend & bit != 0, bytes.get_mut(at)) {
                *byte = value;
            }
        }
        let Some(error) = Error::parse(&bytes) else {
            return Ok(());
        };
        let mut out = bytes.clone();
        match error.rewrite(&mut out, BACK, delta, false) {
            Err(Malformed) => prop_assert_eq!(out, bytes),
            Ok(()) => {
                let places = [10..12, 16..20, error.icmp + 2..error.icmp + 4,
                    error.ip + 10..error.ip + 16, error.tcp..error.tcp + 2,
                    error.tcp + 4..error.tcp + 8, error.tcp + 16..error.tcp + 18];
                for (at, (old, new)) in bytes.iter().zip(&out).enumerate() {
                    prop_assert!(old == new || places.iter().any(|place| place.contains(&at)));
                }
            }
        }
    }
}

/// A change of one byte, and what becomes of the error: none that is known, or not a sound one.
#[test]
fn what_is_no_error_about_a_segment_is_left_alone() {
    let good = Case::plain().packet(VIP, 0, false);
    let none = [
        ("another version", 0, 0x75),
        ("UDP", 9, 17),
        ("a fragment", 6, 0x20),
        ("a later fragment", 7, 1),
        ("an echo", 20, 8),
        ("an echo's reply", 20, 0),
        ("a source quench", 20, 4),
        ("a redirect", 20, 5),
        ("a quote of another version", 28, 0x65),
        ("a short header", 28, 0x44),
        ("a header longer than what is quoted", 28, 0x4f),
        ("about UDP", 37, 17),
        ("about a later fragment", 35, 1),
    ];
    for (what, at, value) in none {
        let mut packet = good.clone();
        packet[at] = value;
        assert_eq!(Error::parse(&packet), None, "{what}");
    }
    let sound = [
        ("another kind", 20, 11, true),
        ("one more", 20, 12, true),
        ("another code", 21, 200, true),
        ("about a first fragment", 34, 0x60, true),
        ("the length in another order", 30, 0, true),
        ("the quote ends in the TCP header", 25, 6, false),
        ("the quote ends in the IP header", 25, 1, false),
        ("enough is quoted before an extension", 25, 7, true),
        ("told somebody else", 19, 99, false),
    ];
    for (what, at, value, sound) in sound {
        let mut packet = good.clone();
        packet[at] = value;
        let error = Error::parse(&packet).expect(what);
        assert_eq!(error.is_sound(), sound, "{what}");
        let before = packet.clone();
        let done = error.rewrite(&mut packet, BACK, 1, false);
        assert_eq!(done.is_ok(), sound, "{what}");
        assert_eq!(packet != before, sound, "{what}");
    }
}

#[test]
fn short_quotes() {
    let case = Case::plain();
    let whole = case.packet(VIP, 0, false);
    // IP, ICMP, IP, and the ports.
    for (len, known, sound) in [
        (51, false, false),
        (52, true, false),
        (55, true, false),
        (56, true, true),
    ] {
        let mut packet = whole[..len].to_vec();
        let error = Error::parse(&packet);
        assert_eq!(error.is_some(), known, "{len}");
        let Some(error) = error else { continue };
        assert_eq!(error.is_sound(), sound, "{len}");
        assert_eq!(error.rewrite(&mut packet, BACK, 1, false).is_ok(), sound);
        // What it was read from is no longer there.
        assert!(error.rewrite(&mut packet[..20], BACK, 1, false).is_err());
    }
}

#[test]
fn a_packet_that_is_too_big() {
    let quote = Case::plain().packet(VIP, 0, false);
    let at = TooBig::quote_at(&VIP.0);
    let mut out = vec![0xee; at + quote.len()];
    out[at..].copy_from_slice(&quote);
    let error = TooBig {
        src: VIP.0,
        dst: CLIENT.0,
        mtu: 1400,
    };
    error.write(&mut out).unwrap();
    let header = crate::ip::Header::parse(&out).unwrap();
    assert_eq!((header.src(), header.dst()), (VIP.0, CLIENT.0));
    assert_eq!(
        (header.protocol(), 20 + header.payload().len()),
        (1, out.len())
    );
    assert_eq!(Sum::new().append(&out[..20]).check(), 0);
    assert_eq!(Sum::new().append(&out[20..]).check(), 0);
    assert_eq!(out[20..22], [3, 4]);
    assert_eq!(out[24..28], [0, 0, 0x05, 0x78]);
    assert_eq!(out[28..], quote);
    assert_eq!(at + TooBig::quote_max(&VIP.0), 576);
    assert!(error.write(&mut out[..27]).is_none());
}

/// "Fragmentation needed" about a packet of IP in IP, or something like it.
fn tunnelled(kind: (u8, u8), protocol: u8, options: &[u8], mtu: u16) -> Vec<u8> {
    let mut icmp = vec![kind.0, kind.1, 0, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(&ip(protocol, VIP.0, BACK.0, options, 40));
    icmp.extend_from_slice(&[0; 8]);
    let mut packet = ip(1, ROUTER, VIP.0, options, icmp.len());
    packet.extend_from_slice(&icmp);
    packet
}

#[test]
fn a_tunnel_is_too_narrow() {
    for options in [&[][..], &[1; 40]] {
        let packet = tunnelled((3, 4), 4, options, 1300);
        let head = HEAD_MAX.min(packet.len());
        let icmp = 20 + options.len();
        assert_eq!(
            Tunnelled::parse(&packet[..head]),
            Some(Tunnelled {
                from: VIP.0,
                to: BACK.0,
                mtu: 1300,
                icmp,
                quote: icmp + 8,
            })
        );
        // The quoted header must be whole.
        for len in 0..icmp + 8 + 20 + options.len() {
            assert_eq!(Tunnelled::parse(&packet[..len]), None, "{len}");
        }
        assert_eq!(Error::parse(&packet), None);
    }
    for (kind, protocol, mtu) in [
        ((3, 3), 4, 1300),
        ((11, 4), 4, 1300),
        ((3, 4), 6, 1300),
        ((3, 4), 4, 0),
    ] {
        assert_eq!(Tunnelled::parse(&tunnelled(kind, protocol, &[], mtu)), None);
    }
    // It was not sent to who sent what it quotes.
    let mut packet = tunnelled((3, 4), 4, &[], 1300);
    packet[19] ^= 1;
    assert_eq!(Tunnelled::parse(&packet), None);
}

const VIP6: End = ([0x20; 16], 80);
const BACK6: End = ([0xfd; 16], 8080);
const CLIENT6: End = ([0xfc; 16], 4711);

/// An IPv6 packet, with a hop-by-hop header if `options` is.
fn ip6(protocol: u8, src: Addr, dst: Addr, options: bool, payload: &[u8]) -> Vec<u8> {
    let rest = match options {
        true => [&[protocol, 0, 1, 4, 0, 0, 0, 0], payload].concat(),
        false => payload.to_vec(),
    };
    let build = ip::Build {
        src,
        dst,
        protocol: if options { 0 } else { protocol },
        hops: 61,
        class: 0,
    };
    let mut out = vec![0; 40];
    build.write(&mut out, rest.len()).unwrap();
    out.extend_from_slice(&rest);
    out
}

/// The ICMPv6 error about a segment of this source, whose number was greater by `delta`.
fn error6(
    kind: u8,
    quoted: usize,
    options: bool,
    source: End,
    delta: u32,
    partial: bool,
) -> Vec<u8> {
    let mut segment: Vec<u8> = (0..60).collect();
    segment[..2].copy_from_slice(&source.1.to_be_bytes());
    segment[2..4].copy_from_slice(&CLIENT6.1.to_be_bytes());
    segment[4..8].copy_from_slice(&0x1234u32.wrapping_add(delta).to_be_bytes());
    segment[16..18].fill(0);
    let sum = Sum::pseudo(&source.0, &CLIENT6.0, 60).append(&segment);
    segment[16..18].copy_from_slice(&sum.check().to_be_bytes());
    let quote = ip6(6, source.0, CLIENT6.0, options, &segment);
    let mut icmp = vec![kind, 0, 0, 0, 0, 0, 5, 0];
    icmp.extend_from_slice(&quote[..quote.len() - 60 + quoted]);
    let pseudo = Sum::pseudo_of(58, &[0xfe; 16], &source.0, icmp.len() as u32);
    let check = match partial {
        true => pseudo.folded(),
        false => pseudo.append(&icmp).check(),
    };
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    ip6(58, [0xfe; 16], source.0, options, &icmp)
}

proptest! {
    #[test]
    fn rewriting_equals_the_other_error_of_icmpv6(
        kind in 1u8..=4,
        quoted in prop_oneof![8usize..=16, 18usize..=60],
        options: bool,
        delta: u32,
        partial: bool,
    ) {
        let mut packet = error6(kind, quoted, options, VIP6, 0, partial);
        let error = Error::parse(&packet).unwrap();
        prop_assert_eq!((error.source(), error.destination()), (VIP6, CLIENT6));
        prop_assert!(error.is_sound());
        prop_assert_eq!(error.rewrite(&mut packet, BACK, delta, partial), Err(Malformed));
        error.rewrite(&mut packet, BACK6, delta, partial).unwrap();
        prop_assert_eq!(packet, error6(kind, quoted, options, BACK6, delta, partial));
    }
}

#[test]
fn what_is_no_error_of_icmpv6_is_left_alone() {
    let good = error6(2, 60, false, VIP6, 0, false);
    // An echo, something else than ICMPv6, a quote of IPv4, one of UDP, one with extensions only.
    for (at, value) in [
        (40, 128),
        (40, 0),
        (40, 5),
        (6, 1),
        (48, 0x45),
        (54, 17),
        (54, 60),
    ] {
        let mut packet = good.clone();
        packet[at] = value;
        assert_eq!(Error::parse(&packet), None, "{at}");
    }
    // Told somebody else; and an extension where the segment was (RFC 4884).
    for (at, value) in [(39, 0), (44, 5)] {
        let mut packet = good.clone();
        packet[40] = 1;
        packet[at] = value;
        assert!(!Error::parse(&packet).unwrap().is_sound(), "{at}");
    }
}

#[test]
fn a_packet_that_is_too_big_for_ipv6() {
    let (src, dst) = (VIP6.0, CLIENT6.0);
    let at = TooBig::quote_at(&src);
    let mut out = vec![0xee; at + 100];
    let error = TooBig {
        src,
        dst,
        mtu: 1400,
    };
    error.write(&mut out).unwrap();
    let header = ip::Header::parse(&out).unwrap();
    assert_eq!(
        (header.src(), header.dst(), header.protocol()),
        (src, dst, 58)
    );
    assert_eq!(
        Sum::pseudo_of(58, &src, &dst, 108)
            .append(&out[40..])
            .check(),
        0
    );
    assert_eq!(out[40..42], [2, 0]);
    assert_eq!(out[44..48], [0, 0, 0x05, 0x78]);
    assert_eq!(at + TooBig::quote_max(&src), 1280);
    assert!(TooBig {
        dst: CLIENT.0,
        ..error
    }
    .write(&mut out)
    .is_none());
}

#[test]
fn a_tunnel_of_ipv6_is_too_narrow() {
    for (protocol, known) in [(4, true), (41, true), (6, false)] {
        let quote = ip6(protocol, VIP6.0, BACK6.0, false, &[0; 40]);
        let icmp = [&[2, 0, 0, 0, 0, 0, 5, 0], &quote[..]].concat();
        let packet = ip6(58, [0xfe; 16], VIP6.0, false, &icmp);
        let found = Tunnelled {
            from: VIP6.0,
            to: BACK6.0,
            mtu: 1280,
            icmp: 40,
            quote: 48,
        };
        assert_eq!(Tunnelled::parse(&packet), known.then_some(found));
        // More than fits a packet is as good as no limit.
        let mut wide = packet;
        wide[45] = 1;
        let mtu = Tunnelled::parse(&wide).map(|it| it.mtu);
        assert_eq!(mtu, known.then_some(u16::MAX));
    }
}
