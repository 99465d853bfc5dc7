// SPDX-License-Identifier: GPL-2.0

//! Rewriting segments: each against the same done byte by byte with a checksum computed anew, and
//! undone by its opposite. The input is a translation, what else is to be rewritten, and a packet.

#![no_main]

use carisma_core::{
    ipv4,
    tcp::flag,
    translate::{
        rewrite_addr,
        rewrite_port,
        End,
        Translation, //
    },
    tuple::v4_mapped, //
};
use carisma_fuzz::{
    be32,
    check,
    header_len,
    options,
    set_check,
    sum,
    DST,
    SRC, //
};
use libfuzzer_sys::fuzz_target;

type Input<'a> = ([u32; 2], [u8; 4], [u8; 4], u16, &'a [u8]);

fuzz_target!(|input: Input<'_>| {
    let ([seq_delta, ts_delta], [own, known, bits, _], addr, port, packet) = input;
    let translation = Translation {
        seq_delta,
        ts_delta,
        wscale_own: own % 15,
        wscale_known: known % 15,
    };
    let partial = bits & 1 != 0;
    let end = if bits & 2 != 0 {
        End::Source
    } else {
        End::Destination
    };
    let ip = ip_len(packet);
    let header = ipv4::Header::parse(packet);
    assert_eq!(header.map(|header| header.header_len()), ip);
    let (ip, segment) = packet.split_at(ip.unwrap_or(0));
    let mut segment = segment.to_vec();
    if segment.len() >= 20 && segment.len() < 0xffff {
        set_check(&mut segment, partial);
        readdressed(ip, &segment, (end, addr, port), partial);
    }
    for inbound in [false, true] {
        translated(&translation, &segment, inbound, partial);
    }
});

/// The length of the IPv4 header at the beginning of `packet`, if it is whole.
fn ip_len(packet: &[u8]) -> Option<usize> {
    let len = usize::from(packet.first()? & 15) * 4;
    let total = u16::from_be_bytes(packet.get(2..4)?.try_into().unwrap());
    let valid = packet[0] >> 4 == 4 && len >= 20 && len <= packet.len();
    (valid && len <= total.into()).then_some(len)
}

/// One end gets another address and port.
fn readdressed(ip: &[u8], segment: &[u8], new: (End, [u8; 4], u16), partial: bool) {
    let (end, addr, port) = new;
    let (mut head, mut tcp) = (ip.to_vec(), segment.to_vec());
    if ip.is_empty() {
        assert!(rewrite_addr(&mut head, &mut tcp, end, &v4_mapped(addr), partial).is_err());
        assert_eq!(tcp, segment);
        return;
    }
    head[12..16].copy_from_slice(&SRC);
    head[16..20].copy_from_slice(&DST);
    set_ip_check(&mut head);
    let mut expected = head.clone();
    let (src, dst, at, place) = match end {
        End::Source => (addr, DST, 12, 0),
        End::Destination => (SRC, addr, 16, 2),
    };
    expected[at..at + 4].copy_from_slice(&addr);
    set_ip_check(&mut expected);
    let mut wanted = segment.to_vec();
    wanted[place..place + 2].copy_from_slice(&port.to_be_bytes());
    let sum = check(src, dst, &wanted, partial);
    wanted[16..18].copy_from_slice(&sum.to_be_bytes());

    rewrite_addr(&mut head, &mut tcp, end, &v4_mapped(addr), partial).unwrap();
    rewrite_port(&mut tcp, end, port, partial).unwrap();
    assert_eq!((head, tcp), (expected, wanted));
}

/// Gives an IPv4 header the right checksum.
fn set_ip_check(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = !sum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The numbers change by what the translation says, and nothing else does.
fn translated(translation: &Translation, segment: &[u8], inbound: bool, partial: bool) {
    let act = |translation: &Translation, segment: &mut [u8]| match inbound {
        true => translation.inbound(segment, partial),
        false => translation.outbound(segment, partial),
    };
    let mut out = segment.to_vec();
    let Some(expected) = model(translation, segment, inbound, partial) else {
        assert!(act(translation, &mut out).is_err() && out == segment);
        return;
    };
    // Payload may lie elsewhere, as on a paged skb.
    let len = header_len(segment).unwrap();
    act(translation, &mut out[..len]).unwrap();
    assert_eq!(out, expected);

    let scale = translation.wscale_own;
    let there = Translation {
        wscale_known: scale,
        ..*translation
    };
    let back = Translation {
        seq_delta: there.seq_delta.wrapping_neg(),
        ts_delta: there.ts_delta.wrapping_neg(),
        ..there
    };
    let mut out = segment.to_vec();
    act(&there, &mut out[..len]).unwrap();
    // A TSecr that becomes 0 cannot be told from one that was.
    let echoes = |segment: &[u8]| -> Vec<bool> {
        let found = options(&segment[..len]).unwrap();
        let echo = found
            .iter()
            .filter(|(_, kind, data)| *kind == 8 && data.len() == 8);
        echo.map(|(_, _, data)| data[4..] == [0; 4]).collect()
    };
    if !inbound || echoes(&out) == echoes(segment) {
        act(&back, &mut out[..len]).unwrap();
        assert_eq!(out, segment);
    }
}

/// The translation of a segment as one would write it first.
fn model(t: &Translation, segment: &[u8], inbound: bool, partial: bool) -> Option<Vec<u8>> {
    let len = header_len(segment)?;
    let options = options(&segment[..len])?;
    let mut out = segment.to_vec();
    if inbound && segment[13] & flag::ACK == 0 {
        return Some(out);
    }
    let mut add = |at: usize, delta: u32| {
        let value = be32(segment, at).wrapping_add(delta);
        out[at..at + 4].copy_from_slice(&value.to_be_bytes());
    };
    if inbound {
        add(8, t.seq_delta);
    } else {
        add(4, t.seq_delta.wrapping_neg());
    }
    for (at, kind, data) in options {
        match (kind, data.len()) {
            (8, 8) if !inbound => add(at + 2, t.ts_delta.wrapping_neg()),
            (8, 8) if data[4..] != [0; 4] => add(at + 6, t.ts_delta),
            (5, len) if inbound && len % 8 == 0 => {
                (0..len)
                    .step_by(4)
                    .for_each(|edge| add(at + 2 + edge, t.seq_delta));
            }
            _ => {}
        }
    }
    if !inbound && segment[13] & flag::SYN == 0 {
        let window = be32(segment, 12) & 0xffff;
        let said = (u64::from(window) << t.wscale_own) >> t.wscale_known;
        out[14..16].copy_from_slice(&(said.min(0xffff) as u16).to_be_bytes());
    }
    set_check(&mut out, partial);
    Some(out)
}
