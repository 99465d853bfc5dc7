// SPDX-License-Identifier: GPL-2.0

//! Tests of the translation: against whole recomputation of checksums, and by the laws that a
//! client may rely on.

use super::*;
use crate::{
    csum::Sum,
    ipv4::Build as Ip,
    seq::Seq,
    tcp::{
        Build,
        Options,
        Timestamps, //
    },
    tuple::v4_mapped, //
};
use proptest::prelude::*;
use std::{
    vec,
    vec::Vec, //
};

const SRC: [u8; 4] = [192, 0, 2, 1];
const DST: [u8; 4] = [198, 51, 100, 1];

/// What the check field should hold.
fn check(src: [u8; 4], dst: [u8; 4], segment: &[u8], partial: bool) -> u16 {
    let pseudo = Sum::pseudo(&v4_mapped(src), &v4_mapped(dst), segment.len() as u32);
    if partial {
        return pseudo.folded();
    }
    let mut copy = segment.to_vec();
    copy[16..18].fill(0);
    pseudo.append(&copy).check()
}

/// A segment from parts, with a right checksum.
fn segment(fixed: [u8; 20], options: &[u8], payload: &[u8], partial: bool) -> Vec<u8> {
    let header_len = 20 + options.len().div_ceil(4) * 4;
    let mut bytes = vec![0; header_len];
    bytes[..20].copy_from_slice(&fixed);
    bytes[12] = (fixed[12] & 0xf) | (header_len / 4 * 16) as u8;
    bytes[20..20 + options.len()].copy_from_slice(options);
    bytes.extend_from_slice(payload);
    let sum = check(SRC, DST, &bytes, partial);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

prop_compose! {
    fn any_translation()(
        seq_delta: u32, ts_delta: u32, wscale_own in 0u8..=14, wscale_known in 0u8..=14,
    ) -> Translation {
        Translation { seq_delta, ts_delta, wscale_own, wscale_known }
    }
}

/// One well-formed option, or padding.
fn any_option() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(vec![1]),
        3 => any::<[u8; 8]>().prop_map(|data| [&[8, 10], &data[..]].concat()),
        1 => any::<[u8; 4]>().prop_map(|data| [&[8, 10], &data[..], &[0; 4]].concat()),
        1 => any::<[u8; 8]>().prop_map(|data| [&[5, 10], &data[..]].concat()),
        1 => any::<[u8; 16]>().prop_map(|data| [&[5, 18], &data[..]].concat()),
        1 => any::<[u8; 24]>().prop_map(|data| [&[5, 26], &data[..]].concat()),
        1 => any::<[u8; 7]>().prop_map(|data| [&[5, 9], &data[..]].concat()),
        1 => any::<[u8; 9]>().prop_map(|data| [&[8, 11], &data[..]].concat()),
        1 => Just(vec![2, 4, 5, 0xb4]),
        1 => (9u8.., prop::collection::vec(any::<u8>(), 0..7)).prop_map(|(kind, data)| {
            [&[kind, data.len() as u8 + 2], &data[..]].concat()
        }),
    ]
}

/// A well-formed list of options, anything behind its end included.
fn any_options() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any_option(), 0..8).prop_map(|options| {
        let mut list = Vec::new();
        for option in options {
            if list.len() + option.len() <= 40 {
                list.extend(option);
            }
        }
        list
    })
}

prop_compose! {
    fn any_segment(partial: bool)(
        fixed: [u8; 20],
        options in any_options(),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) -> Vec<u8> {
        segment(fixed, &options, &payload, partial)
    }
}

/// The rewriting as one would write it first, byte by byte and with a new checksum.
fn model(t: &Translation, segment: &[u8], inbound: bool, partial: bool) -> Vec<u8> {
    let mut out = segment.to_vec();
    let mut put = |at: usize, value: u32| out[at..at + 4].copy_from_slice(&value.to_be_bytes());
    let header_len = usize::from(segment[12] >> 4) * 4;
    let acts = !inbound || segment[13] & 0x10 != 0;
    if inbound && acts {
        put(8, be32(segment, 8).wrapping_add(t.seq_delta));
    } else if acts {
        put(4, be32(segment, 4).wrapping_sub(t.seq_delta));
    }
    let mut at = 20;
    while acts && at < header_len && segment[at] != 0 {
        if segment[at] == 1 {
            at += 1;
            continue;
        }
        let len = usize::from(segment[at + 1]);
        match (segment[at], inbound) {
            (8, true) if len == 10 && be32(segment, at + 6) != 0 => {
                put(at + 6, be32(segment, at + 6).wrapping_add(t.ts_delta));
            }
            (8, false) if len == 10 => {
                put(at + 2, be32(segment, at + 2).wrapping_sub(t.ts_delta));
            }
            (5, true) if len % 8 == 2 => {
                for edge in (at + 2..at + len).step_by(4) {
                    put(edge, be32(segment, edge).wrapping_add(t.seq_delta));
                }
            }
            _ => {}
        }
        at += len;
    }
    if !inbound && segment[13] & 2 == 0 {
        let window = u64::from(u16::from_be_bytes([segment[14], segment[15]]));
        let scaled = (window << t.wscale_own) >> t.wscale_known;
        out[14..16].copy_from_slice(&(scaled.min(0xffff) as u16).to_be_bytes());
    }
    let sum = check(SRC, DST, &out, partial);
    out[16..18].copy_from_slice(&sum.to_be_bytes());
    out
}

proptest! {
    #[test]
    fn rewriting_equals_the_model(
        t in any_translation(),
        (partial, bytes) in any::<bool>().prop_flat_map(|p| (Just(p), any_segment(p))),
        inbound: bool,
        headers_only: bool,
    ) {
        let expected = model(&t, &bytes, inbound, partial);
        let mut out = bytes.clone();
        let header_len = usize::from(bytes[12] >> 4) * 4;
        // Payload may lie elsewhere, as on a paged skb.
        let view = if headers_only { &mut out[..header_len] } else { &mut out[..] };
        let result = if inbound { t.inbound(view, partial) } else { t.outbound(view, partial) };
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(out, expected);
    }

    /// What a client acknowledges of what it was sent is what TCP sent.
    #[test]
    fn a_client_answers_in_tcps_own_numbers(
        t in any_translation(), seq: u32, val: u32, len in 0u32..100_000,
    ) {
        let mut sent = [0; 32];
        let ts = Some(Timestamps { val, ecr: 5 });
        Build::ack(80, 4711, Seq(seq), Seq(9), 100, ts)
            .write(&mut sent, &v4_mapped(SRC), &v4_mapped(DST), &[]).unwrap();
        t.outbound(&mut sent, false).unwrap();
        let seen = Header::parse(&sent).unwrap();
        let seen_ts = seen.options().unwrap().ts.unwrap();
        prop_assert_eq!((seen.ack(), seen_ts.ecr), (Seq(9), 5));

        let edge = seen.seq().add(len);
        let mut fixed = [0; 20];
        fixed[8..12].copy_from_slice(&edge.0.to_be_bytes());
        fixed[13] = flag::ACK;
        let mut options = vec![1, 8, 10, 0, 0, 0, 7];
        options.extend_from_slice(&seen_ts.val.to_be_bytes());
        options.extend_from_slice(&[5, 10]);
        options.extend_from_slice(&edge.add(10).0.to_be_bytes());
        options.extend_from_slice(&edge.add(20).0.to_be_bytes());
        let mut answer = segment(fixed, &options, &[], false);
        t.inbound(&mut answer, false).unwrap();
        let header = Header::parse(&answer).unwrap();
        prop_assert_eq!(header.ack(), Seq(seq).add(len));
        prop_assert_eq!(be32(&answer, 33), Seq(seq).add(len).add(10).0);
        prop_assert_eq!(be32(&answer, 37), Seq(seq).add(len).add(20).0);
        let ecr = header.options().unwrap().ts.unwrap().ecr;
        prop_assert_eq!(ecr, if seen_ts.val == 0 { 0 } else { val });
    }

    /// The opposite translation undoes everything, as long as scales do not round.
    #[test]
    fn there_and_back(
        t in any_translation(), scale in 0u8..=14, bytes in any_segment(false), inbound: bool,
    ) {
        let t = Translation { wscale_own: scale, wscale_known: scale, ..t };
        let back = Translation {
            seq_delta: t.seq_delta.wrapping_neg(),
            ts_delta: t.ts_delta.wrapping_neg(),
            ..t
        };
        let mut out = bytes.clone();
        if inbound {
            t.inbound(&mut out, false).unwrap();
            let zeroed = Header::parse(&out).unwrap().walk().flatten().any(|opt| {
                opt.kind == 8 && opt.data.len() == 8 && opt.data[4..] == [0; 4]
            });
            prop_assume!(!zeroed || out == bytes);
            back.inbound(&mut out, false).unwrap();
        } else {
            t.outbound(&mut out, false).unwrap();
            back.outbound(&mut out, false).unwrap();
        }
        prop_assert_eq!(out, bytes);
    }

    #[test]
    fn windows_are_never_overstated(t in any_translation(), window: u16) {
        let own = u64::from(window) << t.wscale_own;
        let field = t.window(window);
        let said = u64::from(field) << t.wscale_known;
        prop_assert!(said <= own);
        prop_assert!(own - said < 1 << t.wscale_known || field == u16::MAX);
    }

    /// Whatever comes, either it is refused and untouched, or only the header changed.
    #[test]
    fn no_bytes_are_too_odd(
        t in any_translation(),
        bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..100),
        offset in 0u8..16,
        partial: bool,
    ) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.get_mut(12) {
            *byte = offset << 4;
        }
        let len = Header::parse(&bytes).map_or(0, |header| header.header_len());
        let bad = Header::parse(&bytes).is_none_or(|header| header.options().is_err());
        type Act<'a> = &'a dyn Fn(&mut [u8]) -> Result<(), Malformed>;
        let acts: [Act<'_>; 5] = [
            &|out| t.inbound(out, partial),
            &|out| t.outbound(out, partial),
            &|out| strip_options(out, |opt| opt.kind == 8, partial).map(drop),
            &|out| clear_ecn(out, partial),
            &|out| clamp_mss(out, 9, partial),
        ];
        for act in acts {
            let mut out = bytes.clone();
            prop_assert_eq!(act(&mut out).is_err(), bad);
            if bad {
                prop_assert_eq!(&out, &bytes);
            }
            prop_assert_eq!(&out[len..], &bytes[len..]);
        }
    }

    #[test]
    fn addresses_and_ports(
        new: [u8; 4], port: u16, source: bool,
        (partial, mut bytes) in any::<bool>().prop_flat_map(|p| (Just(p), any_segment(p))),
    ) {
        let mut ip = [0; 24];
        let build = Ip { src: SRC, dst: DST, protocol: 6, ttl: 64, tos: 0, id: 1 };
        build.write(&mut ip, bytes.len()).unwrap();
        let end = if source { End::Source } else { End::Destination };
        rewrite_addr(&mut ip, &mut bytes, end, &v4_mapped(new), partial).unwrap();
        rewrite_port(&mut bytes, end, port, partial).unwrap();
        let (src, dst) = if source { (new, DST) } else { (SRC, new) };
        let expected = Ip { src, dst, ..build };
        let mut other = [0; 24];
        expected.write(&mut other, bytes.len()).unwrap();
        prop_assert_eq!(ip, other);
        let sum = u16::from_be_bytes([bytes[16], bytes[17]]);
        prop_assert_eq!(sum, check(src, dst, &bytes, partial));
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!(if source { header.source() } else { header.dest() }, port);
    }

    #[test]
    fn addresses_of_ipv6(
        src: Addr, dst: Addr, new: Addr, source: bool,
        (partial, mut bytes) in any::<bool>().prop_flat_map(|p| (Just(p), any_segment(p))),
    ) {
        let mut head = [0; 48];
        let build = ipv6::Build { src, dst, protocol: 6, hops: 64, class: 0 };
        build.write(&mut head, bytes.len()).unwrap();
        let sum = |src: &Addr, dst: &Addr, bytes: &[u8]| {
            let pseudo = Sum::pseudo(src, dst, bytes.len() as u32);
            match partial {
                true => pseudo.folded(),
                false => pseudo.append(bytes).check(),
            }
        };
        bytes[16..18].fill(0);
        let check = sum(&src, &dst, &bytes);
        bytes[16..18].copy_from_slice(&check.to_be_bytes());
        let end = if source { End::Source } else { End::Destination };
        rewrite_addr(&mut head, &mut bytes, end, &new, partial).unwrap();
        let (src, dst) = if source { (new, dst) } else { (src, new) };
        let mut other = [0; 48];
        ipv6::Build { src, dst, ..build }.write(&mut other, bytes.len()).unwrap();
        prop_assert_eq!(head, other);
        let found = u16::from_be_bytes([bytes[16], bytes[17]]);
        bytes[16..18].fill(0);
        prop_assert_eq!(found, sum(&src, &dst, &bytes));
    }

    #[test]
    fn stripped_options_are_gone(
        kinds in prop::collection::vec(2u8..40, 0..4),
        (partial, bytes) in any::<bool>().prop_flat_map(|p| (Just(p), any_segment(p))),
    ) {
        let before = Header::parse(&bytes).unwrap();
        let mut out = bytes.clone();
        let found = strip_options(&mut out, |opt| kinds.contains(&opt.kind), partial).unwrap();
        let after = Header::parse(&out).unwrap();
        prop_assert_eq!(found, before.walk().flatten().any(|opt| kinds.contains(&opt.kind)));
        let kept: Vec<_> = before.walk().flatten().filter(|opt| !kinds.contains(&opt.kind)).collect();
        prop_assert_eq!(after.walk().flatten().collect::<Vec<_>>(), kept);
        prop_assert_eq!(after.check(), check(SRC, DST, &out, partial));
        prop_assert_eq!(&out[..16], &bytes[..16]);
    }
}

proptest! {
    /// The MSS is the smaller one, nothing else is another, and the checksum is right.
    #[test]
    fn the_mss_is_clamped(
        max: u16,
        (partial, bytes) in any::<bool>().prop_flat_map(|p| (Just(p), any_segment(p))),
    ) {
        let before = Header::parse(&bytes).unwrap();
        let mut out = bytes.clone();
        clamp_mss(&mut out, max, partial).unwrap();
        let after = Header::parse(&out).unwrap();
        for (old, new) in before.walk().flatten().zip(after.walk().flatten()) {
            match (old.kind, old.data) {
                (option::MSS, &[a, b]) => {
                    let mss = u16::from_be_bytes([a, b]).min(max);
                    prop_assert_eq!(new.data, mss.to_be_bytes());
                }
                _ => prop_assert_eq!(old, new),
            }
        }
        prop_assert_eq!(after.check(), check(SRC, DST, &out, partial));
        prop_assert_eq!(&out[..16], &bytes[..16]);
        prop_assert_eq!(&out[before.header_len()..], &bytes[before.header_len()..]);
    }
}

#[test]
fn the_translation_between_two_handshakes() {
    let options = Options {
        mss: Some(1460),
        wscale: Some(7),
        sack_ok: true,
        ts: Some(Timestamps { val: 1000, ecr: 1 }),
        ..Options::default()
    };
    let known = SynFacts {
        isn: Seq(0xffff_fff0),
        window: 65160,
        options,
        ecn: Ecn::Off,
    };
    let own = SynFacts {
        isn: Seq(0x10),
        options: Options {
            wscale: Some(9),
            ts: Some(Timestamps { val: 500, ecr: 1 }),
            ..options
        },
        ..known
    };
    let t = Translation::between(&known, &own, 1234).unwrap();
    let expected = Translation {
        seq_delta: 0x20,
        ts_delta: 500u32.wrapping_sub(1234),
        wscale_own: 9,
        wscale_known: 7,
    };
    assert_eq!(t, expected);
    assert_eq!((t.window(1), t.window(0), t.window(0x7fff)), (4, 0, 0xffff));

    let with = |options| SynFacts { options, ..own };
    let (classic, accurate) = (Ecn::Classic, Ecn::Accurate);
    let cases = [
        (
            with(Options {
                wscale: None,
                ..own.options
            }),
            Mismatch::WindowScale,
        ),
        (
            with(Options {
                sack_ok: false,
                ..own.options
            }),
            Mismatch::Sack,
        ),
        (
            with(Options {
                ts: None,
                ..own.options
            }),
            Mismatch::Timestamps,
        ),
        (
            with(Options {
                signed: true,
                ..own.options
            }),
            Mismatch::Signed,
        ),
        (
            SynFacts {
                ecn: classic,
                ..own
            },
            Mismatch::Ecn,
        ),
    ];
    for (own, mismatch) in cases {
        assert_eq!(Translation::between(&known, &own, 0), Err(mismatch));
        assert_eq!(Translation::between(&own, &known, 0), Err(mismatch));
    }
    let ecn = |ecn| SynFacts { ecn, ..known };
    assert!(Translation::between(&ecn(classic), &ecn(classic), 0).is_ok());
    let both = Translation::between(&ecn(accurate), &ecn(accurate), 0);
    assert_eq!(both, Err(Mismatch::Ecn));
    // Without scaling and timestamps there is nothing of them to translate.
    let bare = SynFacts {
        options: Options::default(),
        ..known
    };
    let t = Translation::between(&bare, &bare, 77).unwrap();
    assert_eq!(t, Translation::default());
}

#[test]
fn segments_that_carry_no_number_are_left_alone() {
    let t = Translation {
        seq_delta: 5,
        ts_delta: 6,
        wscale_own: 3,
        wscale_known: 1,
    };
    // A reset without ACK: its acknowledgement number and TSecr mean nothing.
    let mut fixed = [9; 20];
    fixed[13] = flag::RST;
    let options = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
    let reset = segment(fixed, &options, &[], false);
    let mut out = reset.clone();
    t.inbound(&mut out, false).unwrap();
    assert_eq!(out, reset);
    // The window of a SYN-ACK is never scaled.
    fixed[13] = flag::SYN | flag::ACK;
    let mut out = segment(fixed, &options, &[], false);
    t.outbound(&mut out, false).unwrap();
    assert_eq!(&out[14..16], &[9, 9]);
}

#[test]
fn short_headers_are_refused_untouched() {
    let mut tcp = [0; 20];
    let mut ip = [0; 20];
    let addr = v4_mapped([1; 4]);
    let end = End::Source;
    assert_eq!(
        rewrite_addr(&mut ip, &mut tcp, end, &addr, false),
        Err(Malformed)
    );
    ip[0] = 0x45;
    assert_eq!(
        rewrite_addr(&mut ip, &mut tcp[..19], end, &addr, false),
        Err(Malformed)
    );
    assert_eq!(
        rewrite_addr(&mut ip[..19], &mut tcp, end, &addr, false),
        Err(Malformed)
    );
    assert_eq!(rewrite_port(&mut tcp[..19], end, 5, false), Err(Malformed));
    assert_eq!(&ip[1..], &[0; 19]);
    // An address of the other family; a header of IPv6, which is longer.
    for (first, addr) in [(0x45, [2; 16]), (0x60, addr), (0x60, [2; 16])] {
        ip[0] = first;
        let done = rewrite_addr(&mut ip, &mut tcp, end, &addr, false);
        assert_eq!(done, Err(Malformed));
    }
    assert_eq!(&ip[1..], &[0; 19]);
    assert_eq!(tcp, [0; 20]);
}

#[test]
fn ecn_is_taken_out_of_a_syn() {
    let mut fixed = [0; 20];
    fixed[12] = 1;
    fixed[13] = flag::SYN | flag::ECE | flag::CWR;
    let mut out = segment(fixed, &[2, 4, 5, 0xb4], &[], false);
    clear_ecn(&mut out, false).unwrap();
    assert_eq!((out[12], out[13]), (6 << 4, flag::SYN));
    let header = Header::parse(&out).unwrap();
    assert_eq!(SynFacts::of_syn(&header).unwrap().ecn, Ecn::Off);
    assert_eq!(header.check(), check(SRC, DST, &out, false));
}
