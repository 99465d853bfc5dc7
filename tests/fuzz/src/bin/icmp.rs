// SPDX-License-Identifier: GPL-2.0

//! ICMP errors about TCP segments: found where a plainer reader finds them, and rewritten so that
//! every checksum is as right or wrong as before. The input is who the segment is to be of, by how
//! much its number grows, and a packet.

#![no_main]

use carisma_core::icmp::Error;
use carisma_fuzz::{
    be32,
    sum, //
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; 4], u16, u32, bool, &[u8])| {
    let (addr, port, delta, partial, packet) = input;
    let error = Error::parse(packet);
    let found = find(packet);
    assert_eq!(error.is_some(), found.is_some());
    let (Some(error), Some(found)) = (error, found) else {
        return;
    };
    let Found { icmp, ip, tcp, end } = found;
    let ends = be32(packet, tcp);
    let source = (
        packet[ip + 12..ip + 16].try_into().unwrap(),
        (ends >> 16) as u16,
    );
    let destination = (packet[ip + 16..ip + 20].try_into().unwrap(), ends as u16);
    assert_eq!((error.source(), error.destination()), (source, destination));
    let sound = packet[16..20] == source.0 && end >= tcp + 8;
    assert_eq!(error.is_sound(), sound);

    let mut out = packet.to_vec();
    let done = error.rewrite(&mut out, (addr, port), delta, partial);
    assert_eq!(done.is_ok(), sound);
    if !sound {
        assert_eq!(out, packet);
        return;
    }
    let mut expected = packet.to_vec();
    expected[16..20].copy_from_slice(&addr);
    expected[ip + 12..ip + 16].copy_from_slice(&addr);
    expected[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
    let seq = be32(packet, tcp + 4).wrapping_add(delta);
    expected[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
    // The checksums are judged by what they cover.
    let mut checks = vec![10, ip + 10];
    if !partial {
        checks.push(icmp + 2);
    }
    if end >= tcp + 18 {
        checks.push(tcp + 16);
    }
    for at in checks {
        expected[at..at + 2].copy_from_slice(&out[at..at + 2]);
    }
    assert_eq!(out, expected);

    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]])).min(packet.len());
    let covered = |packet: &[u8]| {
        let mut sums = vec![sum(&packet[..icmp]), sum(&packet[ip..tcp])];
        if !partial {
            sums.push(sum(&packet[icmp..total]));
        }
        if end >= tcp + 18 {
            let fields = [ip + 12..ip + 16, tcp..tcp + 8, tcp + 16..tcp + 18];
            let bytes = fields.map(|field| &packet[field]).concat();
            sums.push(sum(&bytes));
        }
        // There are two zeros.
        sums.iter().map(|sum| sum % 0xffff).collect::<Vec<_>>()
    };
    assert_eq!(covered(&out), covered(packet));
});

/// Where things are in an error.
struct Found {
    icmp: usize,
    ip: usize,
    tcp: usize,
    end: usize,
}

/// The length of an IPv4 header, if there is a whole one.
fn header(bytes: &[u8]) -> Option<usize> {
    let len = usize::from(bytes.first()? & 15) * 4;
    (bytes[0] >> 4 == 4 && len >= 20 && len <= bytes.len()).then_some(len)
}

/// Reads an error as one would first.
fn find(packet: &[u8]) -> Option<Found> {
    let icmp = header(packet)?;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if packet[9] != 1 || packet[6] & 0x3f != 0 || packet[7] != 0 || total < icmp {
        return None;
    }
    let packet = &packet[..total.min(packet.len())];
    let ip = icmp + 8;
    if packet.len() < ip || ![3, 11, 12].contains(&packet[icmp]) {
        return None;
    }
    let tcp = ip + header(&packet[ip..])?;
    if packet[ip + 9] != 6 || packet[ip + 6] & 0x1f != 0 || packet[ip + 7] != 0 {
        return None;
    }
    let end = match usize::from(packet[icmp + 5]) * 4 {
        0 => packet.len(),
        len => packet.len().min(ip + len),
    };
    (packet.len() >= tcp + 4).then_some(Found { icmp, ip, tcp, end })
}
