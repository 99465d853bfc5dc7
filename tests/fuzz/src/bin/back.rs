// SPDX-License-Identifier: GPL-2.0

//! A connection at its back end: a handshake that a front end might have seen, and whatever TCP
//! answers to its replay. The input is the options of the three headers, then what happens.

#![no_main]

use carisma_core::{
    back::{
        Adoption,
        Back,
        Phase, //
    },
    seq::Seq,
    tcp::{
        flag,
        Build,
        Header,
        SynFacts, //
    },
    translate::Translation,
    wire::Handshake,
};
use carisma_fuzz::{
    raw,
    written, //
};
use libfuzzer_sys::{
    arbitrary::Unstructured,
    fuzz_target, //
};

const CLIENT: u16 = 40000;
const VIP: u16 = 80;
const PORT: u16 = 8080;

fuzz_target!(|data: &[u8]| {
    let mut events = Unstructured::new(data);
    let (client, server) = (Seq(number(&mut events)), Seq(number(&mut events)));
    let ecn = flag::ECE | flag::CWR;
    let syn = Build {
        source: CLIENT,
        dest: VIP,
        seq: client,
        flags: flag::SYN | (byte(&mut events) & ecn),
        window: number(&mut events) as u16,
        ..Build::default()
    };
    let syn_ack = Build {
        source: VIP,
        dest: CLIENT,
        seq: server,
        ack: client.add(1),
        flags: flag::SYN | flag::ACK | (byte(&mut events) & ecn),
        ..syn
    };
    let ack = Build {
        seq: client.add(1),
        ack: server.add(1),
        flags: flag::ACK,
        ..syn
    };
    let headers = [syn, syn_ack, ack].map(|build| options(&build, &mut events));
    let [syn, syn_ack, ack] = headers
        .each_ref()
        .map(|bytes| Header::parse(bytes).unwrap());
    let Some(handshake) = Handshake::new(syn, syn_ack, ack) else {
        assert!([syn, syn_ack, ack]
            .iter()
            .any(|header| header.options().is_err()));
        return;
    };
    let ts_base = number(&mut events);
    let mut back = Back::new(&handshake, PORT, ts_base);
    replayed(&back, &handshake);
    if byte(&mut events) & 1 == 1 {
        if let Some(adoption) = back.adopt() {
            adopted(&adoption, &handshake, ts_base);
            assert_eq!(back.adopt(), None);
        }
    }
    let mut acked = server.add(1);
    while !events.is_empty() {
        let phase = back.phase();
        match number(&mut events) & 7 {
            0 => {
                back.replay();
                let again = phase == Phase::Adopt;
                assert_eq!(back.phase(), if again { Phase::Syn } else { phase });
            }
            1..=3 => answered(&mut back, &handshake, ts_base, &mut events),
            4 | 5 => {
                assert_eq!(
                    back.on_child(),
                    matches!(phase, Phase::Adopt | Phase::Ack | Phase::Offered)
                );
            }
            _ => {
                let newest = acked.add(number(&mut events));
                let committed = back.commit(newest, 1, number(&mut events));
                assert_eq!(committed, phase == Phase::Offered);
                if committed {
                    acked = newest;
                }
            }
        }
        built(&back, client.add(1), acked, number(&mut events));
    }
});

/// The next byte of what happens; 0 at its end.
fn byte(events: &mut Unstructured<'_>) -> u8 {
    events.arbitrary().unwrap_or(0)
}

/// The next 32 bits of what happens; 0 at its end.
fn number(events: &mut Unstructured<'_>) -> u32 {
    events.arbitrary().unwrap_or(0)
}

/// `build` with options as they come: up to 10 words of anything.
fn options(build: &Build, events: &mut Unstructured<'_>) -> Vec<u8> {
    let len = usize::from(byte(events) % 11) * 4;
    raw(build, events.bytes(len.min(events.len())).unwrap())
}

/// The SYN that TCP is shown offers what was agreed, and nothing that was not.
fn replayed(back: &Back, handshake: &Handshake<'_>) {
    let bytes = written(&back.syn());
    let header = Header::parse(&bytes).unwrap();
    assert_eq!((header.source(), header.dest()), (CLIENT, PORT));
    let facts = SynFacts::of_syn(&header).unwrap();
    let (client, server) = (&handshake.client().options, &handshake.server().options);
    assert_eq!(facts.isn, handshake.client().isn);
    assert_eq!(facts.options.mss, client.mss);
    let agreed = server.wscale.and(client.wscale);
    assert_eq!(facts.options.wscale, agreed);
    assert_eq!(facts.options.sack_ok, client.sack_ok && server.sack_ok);
    assert_eq!(
        facts.options.ts.is_some(),
        client.ts.is_some() && server.ts.is_some()
    );
    assert!(!facts.options.mptcp && !facts.options.fast_open && !facts.options.signed);
}

/// What TCP is told to adopt is what was agreed.
fn adopted(adoption: &Adoption, handshake: &Handshake<'_>, ts_base: u32) {
    let (client, server) = (&handshake.client().options, &handshake.server().options);
    assert!(adoption.mss != 0 && !server.signed);
    assert_eq!(adoption.window, handshake.server().window);
    assert_eq!(adoption.wscale, client.wscale.zip(server.wscale));
    assert_eq!(adoption.sack_ok, client.sack_ok && server.sack_ok);
    let ts = client.ts.and(server.ts).map(|_| ts_base);
    assert_eq!(adoption.ts.map(|ts| ts.ecr), ts);
}

/// TCP sends something, most often a SYN-ACK.
fn answered(
    back: &mut Back,
    handshake: &Handshake<'_>,
    ts_base: u32,
    events: &mut Unstructured<'_>,
) {
    let odd = byte(events);
    let client = handshake.client().isn;
    let build = Build {
        source: PORT,
        dest: CLIENT,
        seq: Seq(number(events)),
        ack: client.add(1).add(u32::from(odd & 1)),
        flags: (flag::SYN | flag::ACK) ^ (odd & !1),
        window: number(events) as u16,
        ..Build::default()
    };
    let mut bytes = options(&build, events);
    let header = Header::parse(&bytes).unwrap();
    let before = (back.phase(), back.translation());
    let open = matches!(before.0, Phase::Syn | Phase::Ack);
    let own = SynFacts::of_syn_ack(&header).filter(|_| open && odd & 1 == 0);
    let result = back.on_syn_ack(&header);
    let Some(own) = own else {
        assert_eq!(result, Ok(false));
        assert_eq!((back.phase(), back.translation()), before);
        return;
    };
    match Translation::between(handshake.server(), &own, ts_base) {
        Err(mismatch) => {
            assert_eq!(result, Err(mismatch));
            assert_eq!((back.phase(), back.translation()), before);
        }
        Ok(translation) => {
            assert_eq!(result, Ok(true));
            assert_eq!(
                (back.phase(), back.translation()),
                (Phase::Ack, translation)
            );
            // What the client is shown of it is what it knows.
            translation.outbound(&mut bytes, false).unwrap();
            let seen = SynFacts::of_syn_ack(&Header::parse(&bytes).unwrap()).unwrap();
            assert_eq!(seen.isn, handshake.server().isn);
            if let Some(ts) = seen.options.ts {
                assert_eq!(ts.val, ts_base);
            }
        }
    }
}

/// Whatever is sent in the client's name has the numbers that TCP expects.
fn built(back: &Back, first: Seq, acked: Seq, any: u32) {
    assert_eq!(back.first(), first);
    let delta = back.translation().seq_delta;
    for (build, offset) in [(back.ack(), 0), (back.segment(any), any)] {
        let bytes = written(&build);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.source(), header.dest()), (CLIENT, PORT));
        assert_eq!(
            (header.seq(), header.ack()),
            (first.add(offset), acked.add(delta))
        );
    }
    let bytes = written(&back.reset());
    let header = Header::parse(&bytes).unwrap();
    assert_eq!((header.seq(), header.flags()), (first, flag::RST));
}
