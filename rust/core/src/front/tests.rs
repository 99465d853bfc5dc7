// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::tuple::v4_mapped;
use crate::{
    cookie::Said,
    tcp::{option, Options, HEADER_LEN}, //
};

const CLIENT: u16 = 40000;
const SERVER: u16 = 80;

fn bytes(build: &Build) -> ([u8; 60], usize) {
    let mut out = [0; 60];
    let (a, b) = (v4_mapped([10, 0, 0, 1]), v4_mapped([10, 0, 0, 2]));
    let len = build.write(&mut out, &a, &b, &[]).unwrap();
    (out, len)
}

fn with<R>(build: &Build, f: impl FnOnce(&Header<'_>) -> R) -> R {
    let (bytes, len) = bytes(build);
    f(&Header::parse(&bytes[..len]).unwrap())
}

fn facts(isn: u32, ts: u32) -> SynFacts {
    SynFacts {
        isn: Seq(isn),
        window: 64000,
        options: Options {
            mss: Some(1460),
            wscale: Some(7),
            sack_ok: true,
            ts: Some(Timestamps { val: ts, ecr: 0 }),
            ..Options::default()
        },
        ..SynFacts::default()
    }
}

fn syn_ack(isn: u32, ack: u32) -> Build {
    Build {
        flags: flag::SYN | flag::ACK,
        ack: Seq(ack),
        ..Build::syn(SERVER, CLIENT, &facts(isn, 9000))
    }
}

#[test]
fn a_cookie_is_as_good_as_a_handshake() {
    let client = facts(100, 70);
    let syn = with(&Build::syn(CLIENT, SERVER, &client), Front::new).unwrap();
    let answer = syn.cookie_syn_ack(Seq(7000), 1400, 9000);
    let sent = with(&answer, |header| {
        assert_eq!((header.source(), header.dest()), (SERVER, CLIENT));
        assert_eq!(header.ack(), Seq(101));
        SynFacts::of_syn_ack(header)
    })
    .unwrap();
    assert_eq!((sent.isn, sent.window), (Seq(7000), COOKIE_WINDOW));
    let options = sent.options;
    assert_eq!(
        (options.mss, options.wscale),
        (Some(1400), Some(COOKIE_WSCALE))
    );
    assert_eq!(options.ts, Some(Timestamps { val: 9000, ecr: 70 }));

    let echo = Some(Timestamps { val: 75, ecr: 9000 });
    let first = Build::ack(CLIENT, SERVER, Seq(101), Seq(7001), 500, echo);
    let said = Said::of(&client);
    let mut front = with(&first, |first| Front::of_cookie(first, (&said, 0), 9100, 3)).unwrap();
    assert_eq!(front.phase(), Phase::Head);
    let mut room = NO_HEADERS;
    let handshake = front.handshake(&mut room).unwrap();
    let (mine, theirs) = (handshake.client(), handshake.server());
    assert_eq!((mine.isn, mine.options.wscale), (Seq(100), Some(7)));
    assert_eq!(
        (theirs.isn, theirs.options.wscale),
        (Seq(7000), Some(COOKIE_WSCALE))
    );
    assert_eq!((front.ts_now(13), front.rtt()), (9110, 100));
    assert_eq!(front.handed_rtt(), 100);
    // The stream goes on as behind any handshake.
    let data = Build {
        flags: flag::ACK | flag::PSH,
        ..first
    };
    let input = with(&data, |data| front.on_input(data, 10, 0));
    assert_eq!(
        input,
        Input::Take {
            skip: 0,
            fin: false
        }
    );
    // TCP may make its socket of that, but not twice.
    with(&data, |data| {
        assert!(front.may_open(data, 3 + HOLD_MS) && !front.may_open(data, 4 + HOLD_MS));
        let mut told = front;
        front.gave_ack();
        assert!(!front.may_open(data, 3));
        // Nor with a clock that is behind what the client was told.
        assert_eq!(told.answered(), Some(3));
        let _ = told.acknowledge(5, [].into_iter());
        assert!(!told.may_open(data, 5) && told.answered().is_none());
    });
}

#[test]
fn what_is_handed_over_in_band_tells_the_clock() {
    let echo = Some(Timestamps { val: 75, ecr: 9000 });
    let first = Build::ack(CLIENT, SERVER, Seq(101), Seq(7001), 500, echo);
    let said = Said::of(&facts(100, 70));
    let mut front = with(&first, |first| Front::of_cookie(first, (&said, 0), 9100, 0)).unwrap();
    front.took(10);
    let ts = |build: Build| build.options.ts.unwrap();
    let sent = ts(front.acknowledge(5000, [].into_iter())).val;
    assert_eq!(sent, 14_100);
    front.tell_clock(5003);
    assert_eq!(front.ts_now(5010), 14_110);
    // The clock of the node that goes on is late.
    let handed = front.segment(0);
    let back = with(&handed, |first| {
        Front::of_cookie(first, (&said, 0), 9000, 70)
    })
    .unwrap();
    let adoption = back.back(SERVER, 70).adopt().unwrap();
    assert_eq!(
        adoption.ts,
        Some(Timestamps {
            val: 75,
            ecr: 14_103
        })
    );
}

#[test]
fn without_options_a_cookie_grants_none() {
    let plain = SynFacts {
        isn: Seq(100),
        ..SynFacts::default()
    };
    let syn = with(&Build::syn(CLIENT, SERVER, &plain), Front::new).unwrap();
    let answer = syn.cookie_syn_ack(Seq(7000), 1460, 9000).options;
    assert_eq!(
        (answer.wscale, answer.sack_ok, answer.ts),
        (None, false, None)
    );
    // Nor is a round trip measured; in band that is told as the longest.
    let first = Build::ack(CLIENT, SERVER, Seq(101), Seq(7001), 500, None);
    let said = Said::of(&plain);
    let front = with(&first, |first| Front::of_cookie(first, (&said, 0), 9100, 0)).unwrap();
    assert_eq!((front.rtt(), front.handed_rtt()), (0, 1000));
}

fn segment(seq: u32, flags: u8) -> Build {
    Build {
        flags,
        ..Build::ack(
            CLIENT,
            SERVER,
            Seq(seq),
            Seq(501),
            500,
            Some(Timestamps { val: 77, ecr: 9000 }),
        )
    }
}

/// A connection whose child is withheld: the client's first byte is 101, the server's 501.
fn open() -> Front {
    let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
        Front::new(h).unwrap()
    });
    with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
    let input = with(&segment(101, flag::ACK), |h| front.on_input(h, 0, 1040));
    assert_eq!(input, Input::Hold);
    assert!(front.holds_ack());
    front.give_ack();
    assert!(front.on_child());
    front
}

/// A connection that TCP has answered with number 500, to a client that can or cannot tell of
/// congestion accurately.
fn answered(ecn: Ecn) -> Front {
    let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
        Front::new(h).unwrap()
    });
    with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
    front.server.ecn = ecn;
    front
}

#[test]
fn the_handshake_s_ack_is_held_once() {
    let mut front = answered(Ecn::Classic);
    let ack = segment(101, flag::ACK);
    assert!(!front.holds_ack());
    let mut input = |seq, ack: Build| {
        let build = Build {
            seq: Seq(seq),
            ..ack
        };
        with(&build, |h| front.on_input(h, 0, 1040))
    };
    // Before its time, or not the client's.
    assert_eq!(input(102, ack), Input::Open);
    let other = Build {
        ack: Seq(502),
        ..ack
    };
    assert_eq!(input(101, other), Input::Pass);
    assert_eq!(input(101, ack), Input::Hold);
    // A client that was asked again says so again.
    assert_eq!(input(101, ack), Input::Pass);
    assert!(!front.holds_ack());

    // What its flags say only TCP knows.
    let mut front = answered(Ecn::Accurate);
    assert_eq!(with(&ack, |h| front.on_input(h, 0, 1040)), Input::Pass);
}

#[test]
fn an_ack_that_is_held_is_that_of_the_number_that_it_names() {
    let mut front = answered(Ecn::Off);
    with(&segment(101, flag::ACK), |h| front.on_input(h, 0, 1040));
    with(&syn_ack(900, 101), |h| front.on_output(h, 1050));
    front.give_ack();
    assert_eq!(front.ack().ack, Seq(501));
    assert!(front.on_child());
}

#[test]
fn what_echoes_more_than_the_syn_ack_is_no_ack_of_it() {
    let mut front = answered(Ecn::Off);
    with(&segment(101, flag::ACK), |h| front.on_input(h, 0, 1040));
    // A probe, which TCP answers by itself.
    let probe = segment(100, flag::ACK);
    assert_eq!(with(&probe, |h| front.on_input(h, 1, 1045)), Input::Pass);
    for (ecr, may) in [(8999, true), (9000, true), (9001, false)] {
        let ts = Some(Timestamps { val: 78, ecr });
        let psh = Build {
            flags: flag::ACK | flag::PSH,
            ..Build::ack(CLIENT, SERVER, Seq(101), Seq(501), 500, ts)
        };
        assert_eq!(with(&psh, |h| front.on_input(h, 10, 1050)), Input::Open);
        assert_eq!(with(&psh, |h| front.may_open(h, 1050)), may);
    }
    let echo = with(&front.ack(), |h| h.timestamps().unwrap().map(|ts| ts.ecr));
    assert_eq!(echo, Some(9000));
}

#[test]
fn another_node_may_be_asked_before_there_is_a_socket() {
    let mut front = answered(Ecn::Off);
    let psh = segment(101, flag::ACK | flag::PSH);
    assert_eq!(with(&psh, |h| front.on_input(h, 10, 1040)), Input::Open);
    assert!(with(&psh, |h| front.may_open(h, 1040)));
    front.took(10);
    front.ask();
    assert!(!front.has_child());
    assert_eq!(with(&psh, |h| front.on_input(h, 10, 1240)), Input::Known);
    let mut room = NO_HEADERS;
    assert!(front.handshake(&mut room).is_some());
    assert_eq!((front.reset().seq, front.ack().seq), (Seq(101), Seq(101)));
    // It does not take it.
    front.give_ack();
    assert!(front.on_child() && front.has_child());
    assert_eq!(front.phase(), Phase::Asked);
}

#[test]
fn what_comes_while_tcp_is_given_the_ack_waits_for_the_socket() {
    let mut front = answered(Ecn::Off);
    let psh = segment(101, flag::ACK | flag::PSH);
    with(&segment(101, flag::ACK), |h| front.on_input(h, 0, 1040));
    front.give_ack();
    assert!(!front.holds_ack() && front.gives_ack());
    assert_eq!(with(&psh, |h| front.on_input(h, 10, 1060)), Input::Early);
    let bare = with(&segment(101, flag::ACK), |h| front.on_input(h, 0, 1060));
    assert_eq!(bare, Input::Stray);
    // Its accept queue was full: the client will try again.
    front.gave_ack();
    assert!(!front.gives_ack());
    assert_eq!(with(&psh, |h| front.on_kept(h, 10)), Input::Stray);
    assert_eq!(with(&psh, |h| front.on_input(h, 10, 1060)), Input::Open);
    assert!(front.on_child());
    let take = Input::Take {
        skip: 0,
        fin: false,
    };
    assert_eq!(with(&psh, |h| front.on_kept(h, 10)), take);
}

#[test]
fn a_request_ends_the_handshake_by_itself_if_it_comes_soon() {
    let psh = flag::ACK | flag::PSH;
    let old = Build {
        options: Options {
            ts: Some(Timestamps { val: 60, ecr: 9000 }),
            ..Options::default()
        },
        ..segment(101, psh)
    };
    // (what comes, how long after the ACK, whether it may)
    let cases = [
        (segment(101, psh), Some(0), true),
        (segment(101, psh), Some(HOLD_MS), true),
        (segment(101, psh), Some(HOLD_MS + 1), false),
        (segment(101, psh), None, true),
        (segment(101, psh | flag::FIN), None, true),
        (segment(101, psh | flag::URG), Some(0), false),
        (segment(102, psh), Some(0), false),
        (segment(100, psh), Some(0), false),
        (old, Some(0), false),
    ];
    for (build, after, may) in cases {
        let mut front = answered(Ecn::Off);
        if after.is_some() {
            let input = with(&segment(101, flag::ACK), |h| front.on_input(h, 0, 1040));
            assert_eq!(input, Input::Hold);
        }
        let now = 1040 + after.unwrap_or(5000);
        let input = with(&build, |h| front.on_input(h, 10, now));
        assert_eq!(input, Input::Open, "{build:?}");
        let can = |front: &Front| with(&build, |h| front.may_open(h, now));
        assert_eq!(can(&front), may, "{build:?}, {after:?}");
        front.give_ack();
        assert!(!can(&front));
        front.gave_ack();
        assert!(!can(&front));
    }
    let mut front = answered(Ecn::Accurate);
    with(&segment(101, psh), |h| {
        assert_eq!(front.on_input(h, 10, 1040), Input::Open);
        assert!(!front.may_open(h, 1040));
    });
}

#[test]
fn the_handshake_passes_and_is_kept() {
    let front = open();
    let mut room = NO_HEADERS;
    let handshake = front.handshake(&mut room).unwrap();
    assert_eq!(handshake.client().isn, Seq(100));
    assert_eq!(handshake.server().isn, Seq(500));
    assert_eq!(handshake.ack().seq(), Seq(101));
    assert_eq!(handshake.ack().header_len(), HEADER_LEN + 12);
    assert!(front.is_portable());
    assert_eq!(front.newest(), (Seq(501), 500, 77));
}

#[test]
fn the_handshake_keeps_its_window() {
    let mut front = open();
    let closing = Build {
        window: 3,
        ..segment(101, flag::ACK | flag::PSH)
    };
    with(&closing, |h| front.on_input(h, 10, 1050));
    assert_eq!(front.newest(), (Seq(501), 3, 77));
    let mut room = NO_HEADERS;
    assert_eq!(front.handshake(&mut room).unwrap().ack().window(), 500);
    assert_eq!(front.back(80, 1060).bare_ack().window, 500);
}

#[test]
fn the_handshake_tells_the_round_trip() {
    let measured = |sent: &[u32], answered: u32| {
        let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
            Front::new(h).unwrap()
        });
        for &now in sent {
            with(&syn_ack(500, 101), |h| front.on_output(h, now));
        }
        // The answer may come as two segments.
        for now in [answered, answered.wrapping_add(7)] {
            with(&segment(101, flag::ACK), |h| front.on_input(h, 0, now));
        }
        front.rtt()
    };
    assert_eq!(measured(&[1000], 1040), 40);
    assert_eq!(measured(&[u32::MAX], 9), 10);
    assert_eq!(measured(&[1000], 1000), 1);
    assert_eq!(measured(&[1000], 9000), 1000);
    // Which of both was answered?
    assert_eq!(measured(&[1000, 2000], 2001), 0);
}

#[test]
fn a_payload_with_the_handshake_s_ack_waits_for_the_child() {
    let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
        Front::new(h).unwrap()
    });
    with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
    let data = segment(101, flag::ACK | flag::PSH);
    assert_eq!(with(&data, |h| front.on_input(h, 10, 0)), Input::Open);
    with(&front.ack(), |h| {
        assert_eq!((h.seq(), h.ack()), (Seq(101), Seq(501)));
    });
    assert!(front.on_child());
    assert_eq!(
        with(&data, |h| front.on_input(h, 10, 0)),
        Input::Take {
            skip: 0,
            fin: false
        }
    );
}

#[test]
fn which_of_two_numbers_of_tcp_s_counts_the_client_says() {
    // (what TCP answers the SYN and its repetition with, what the client acknowledges, what is decided about
    // payload then, whether the child is withheld)
    let cases = [
        ([500, 500], 501, Input::Open, true),
        ([500, 900], 901, Input::Open, true),
        // By SYN cookies TCP knows the first one still.
        ([500, 900], 501, Input::Pass, false),
    ];
    for (answers, acked, expected, withheld) in cases {
        let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
            Front::new(h).unwrap()
        });
        for isn in answers {
            with(&syn_ack(isn, 101), |h| front.on_output(h, 1000));
        }
        let data = Build {
            ack: Seq(acked),
            ..segment(101, flag::ACK | flag::PSH)
        };
        assert_eq!(with(&data, |h| front.on_input(h, 10, 0)), expected);
        assert_eq!(front.on_child(), withheld, "{acked} after {answers:?}");
        // What follows is TCP's as well.
        if !withheld {
            assert_eq!(with(&data, |h| front.on_input(h, 10, 0)), Input::Pass);
            assert!(!front.on_child());
        }
    }
}

#[test]
fn what_overtakes_the_handshake_s_ack_opens_the_connection_all_the_same() {
    // (sequence number, bytes, flags, what is decided, and what when there is a socket)
    let cases = [
        (111, 10, flag::ACK | flag::PSH, Input::Open, Input::Early),
        (111, 0, flag::ACK | flag::FIN, Input::Open, Input::Early),
        (111, 0, flag::ACK, Input::Open, Input::Pass),
        (
            96,
            10,
            flag::ACK,
            Input::Open,
            Input::Take {
                skip: 5,
                fin: false,
            },
        ),
        // What is old opens nothing.
        (100, 1, flag::ACK, Input::Pass, Input::Known),
        (100, 0, flag::ACK, Input::Pass, Input::Known),
        // The client thinks better of it.
        (101, 0, flag::RST, Input::Reset, Input::Reset),
        (102, 0, flag::RST, Input::Pass, Input::Challenge),
    ];
    for (seq, payload, flags, first, then) in cases {
        let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
            Front::new(h).unwrap()
        });
        with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
        let input = with(&segment(seq, flags), |h| front.on_input(h, payload, 0));
        assert_eq!(input, first, "{payload} bytes at {seq}");
        if first == Input::Open {
            // It can be handed off: the ACK that TCP gets stands for the client's.
            let mut room = NO_HEADERS;
            let handshake = front.handshake(&mut room).unwrap();
            let ack = handshake.ack();
            assert_eq!((ack.seq(), ack.ack()), (Seq(101), Seq(501)));
            // What it overtook may be older than it, but not than the SYN.
            let ts = if seq > 101 { 70 } else { 77 };
            assert_eq!(ack.options().unwrap().ts.unwrap().val, ts);
        }
        assert!(front.on_child());
        let input = with(&segment(seq, flags), |h| front.on_input(h, payload, 0));
        assert_eq!(input, then, "{payload} bytes at {seq}");
    }
}

#[test]
fn what_came_early_has_its_turn_when_the_gap_is_filled() {
    let mut front = open();
    assert!(!front.is_next(Seq(111)));
    assert_eq!(front.gap(Seq(111)), 10);
    front.took(10);
    assert!(front.is_next(Seq(111)));
    assert!(front.is_next(Seq(105)));
}

#[test]
fn a_number_tells_whose_it_is() {
    let mut front = open();
    front.took(10);
    for (number, ours) in [
        (100, false),
        (101, true),
        (111, true),
        (112, false),
        (50, false),
    ] {
        assert_eq!(front.has(Seq(number)), ours, "{number}");
    }
}

#[test]
fn payload_is_taken_in_order_and_once() {
    // (held before, sequence number, bytes, flags, what is decided)
    let take = |skip, fin| Input::Take { skip, fin };
    let cases = [
        (0, 101, 10, flag::ACK, take(0, false)),
        (10, 101, 10, flag::ACK, Input::Known),
        (10, 101, 15, flag::ACK, take(10, false)),
        (10, 111, 5, flag::ACK | flag::FIN, take(0, true)),
        (10, 111, 0, flag::ACK | flag::FIN, take(0, true)),
        (10, 112, 5, flag::ACK, Input::Early),
        (10, 111, 0, flag::ACK, Input::Pass),
        (10, 110, 0, flag::ACK, Input::Known),
        (10, 111, 0, flag::RST, Input::Reset),
        (0, 300, 0, flag::SYN, Input::Pass),
        (10, 300, 0, flag::SYN, Input::Challenge),
        // TCP would believe the number of the first byte, and the client has sent more.
        (10, 101, 0, flag::RST, Input::Stray),
        (10, 112, 0, flag::RST, Input::Challenge),
        (10, 101 + 63_999, 0, flag::RST, Input::Challenge),
        (10, 101 + 64_000, 0, flag::RST, Input::Stray),
    ];
    for (held, seq, payload, flags, expected) in cases {
        let mut front = open();
        front.took(held);
        let input = with(&segment(seq, flags), |h| front.on_input(h, payload, 0));
        assert_eq!(input, expected, "{held} held, {payload} bytes at {seq}");
        assert_eq!(front.phase(), Phase::Head);
    }
}

#[test]
fn what_nobody_can_have_acknowledged_says_nothing() {
    let ack = |seq: u32, ack: u32, val: u32| {
        let ts = Some(Timestamps { val, ecr: 9000 });
        Build::ack(CLIENT, SERVER, Seq(seq), Seq(ack), 9, ts)
    };
    let flags = |flags: u8, build: Build| Build { flags, ..build };
    let psh = flag::ACK | flag::PSH;
    let fin = flag::ACK | flag::FIN;
    let take = Input::Take {
        skip: 0,
        fin: false,
    };
    // (segment, bytes, what is decided, whether it is the newest of the client's then)
    let cases = [
        (ack(111, 501, 80), 0, Input::Pass, true),
        (flags(psh, ack(111, 501, 80)), 10, take, true),
        (flags(psh, ack(121, 501, 80)), 10, Input::Early, true),
        // TCP has sent nothing but its SYN-ACK (RFC 5961, section 5).
        (ack(0x7000_0000, 1501, 80), 0, Input::Pass, false),
        (ack(111, 1501, 80), 0, Input::Pass, false),
        (ack(111, 500, 80), 0, Input::Pass, false),
        (ack(110, 1501, 80), 0, Input::Known, false),
        (flags(psh, ack(111, 1501, 80)), 10, Input::Known, false),
        (flags(psh, ack(121, 1501, 80)), 10, Input::Known, false),
        (flags(fin, ack(111, 500, 80)), 0, Input::Known, false),
        // Nor does a segment count that acknowledges nothing.
        (flags(flag::PSH, ack(111, 501, 80)), 10, Input::Stray, false),
        (flags(0, ack(111, 501, 80)), 0, Input::Stray, false),
        (flags(flag::FIN, ack(111, 501, 80)), 0, Input::Stray, false),
        // What is outside of the window is not new, whatever it says.
        (ack(0x7000_0000, 501, 0x7000_0000), 0, Input::Pass, false),
        (ack(101 + 64_000, 501, 80), 0, Input::Pass, true),
        (ack(102 + 64_000, 501, 80), 0, Input::Pass, false),
        (ack(110, 501, 80), 0, Input::Known, false),
        (flags(psh, ack(101, 501, 80)), 10, Input::Known, false),
    ];
    for (build, payload, expected, newest) in cases {
        for asked in [false, true] {
            let mut front = open();
            front.took(10);
            if asked {
                front.ask();
            }
            let input = with(&build, |h| front.on_input(h, payload, 0));
            assert_eq!(input, expected, "{payload} bytes, {build:?}");
            let (acked, window, ts) = front.newest();
            assert_eq!(acked, Seq(501), "{payload} bytes, {build:?}");
            assert_eq!(window, if newest { 9 } else { 500 }, "{build:?}");
            assert!(newest || ts == 77, "{ts}: {payload} bytes, {build:?}");
            // What the client sends next is not from the past.
            let next = with(&segment(111, psh), |h| front.on_input(h, 10, 0));
            assert!(newest || next == take, "{next:?} after {build:?}");
        }
    }
}

#[test]
fn what_is_from_the_past_is_not_taken() {
    let stamped = |seq: u32, val: u32| {
        let ts = Some(Timestamps { val, ecr: 9000 });
        Build::ack(CLIENT, SERVER, Seq(seq), Seq(501), 500, ts)
    };
    // (sequence number, timestamp, what is decided, the timestamp of what is held then)
    let take = Input::Take {
        skip: 0,
        fin: false,
    };
    let cases = [
        (101, 77, take, 77),
        (101, 76, take, 77),
        (101, 75, Input::Known, 77),
        (101, 78, take, 78),
        // One that came too early says nothing of those before it, nor is it to seem to be older.
        (111, 90, Input::Early, 78),
        (101, 78, take, 78),
        (101, 99, take, 90),
        (111, 90, Input::Known, 90),
    ];
    let mut front = open();
    for (seq, ts, expected, newest) in cases {
        let input = with(&stamped(seq, ts), |h| front.on_input(h, 10, 0));
        assert_eq!(input, expected, "{seq} at {ts}");
        assert_eq!(front.newest().2, newest, "{seq} at {ts}");
    }
    // What was kept meanwhile has not become old.
    front.took(10);
    assert_eq!(with(&stamped(111, 90), |h| front.on_kept(h, 10)), take);
}

#[test]
fn what_is_held_seems_no_newer_than_what_waits_behind_it() {
    // Segments of ten bytes with their TSvals; whether another node is asked then; such segments again; the
    // TSval that what is held is given with, and the one that is echoed.
    type Case<'a> = (&'a [(u32, u32)], bool, &'a [(u32, u32)], u32, u32);
    let cases: [Case<'_>; 6] = [
        (&[(111, 80)], false, &[], 80, 80),
        (&[(111, 80), (131, 99)], false, &[], 80, 80),
        // What filled the gap was sent after what waits behind it.
        (&[(121, 80), (111, 95)], false, &[], 80, 95),
        (&[(131, 90), (121, 80), (111, 95)], true, &[], 80, 95),
        // What comes while another node is asked waits, too.
        (&[], true, &[(111, 80), (121, 99)], 80, 80),
        (&[], true, &[(111, 80), (111, 95)], 80, 95),
    ];
    for (segments, asked, then, held, echoed) in cases {
        let mut front = open();
        front.took(10);
        let stamped = |seq: u32, val: u32| {
            let ts = Some(Timestamps { val, ecr: 9000 });
            Build::ack(CLIENT, SERVER, Seq(seq), Seq(501), 500, ts)
        };
        for &(seq, ts) in segments {
            with(&stamped(seq, ts), |h| front.on_input(h, 10, 0));
        }
        if asked {
            front.ask();
        }
        for &(seq, ts) in then {
            with(&stamped(seq, ts), |h| front.on_input(h, 10, 0));
        }
        assert_eq!(front.newest().2, held, "{segments:?}, {then:?}");
        let ts = |build: Build| build.options.ts.unwrap();
        assert_eq!(ts(front.segment(0)).val, held, "{segments:?}, {then:?}");
        let mut back = front.back(80, 0);
        assert_eq!(back.adopt().unwrap().ts.unwrap().val, held);
        let echo = ts(front.acknowledge(0, [].into_iter())).ecr;
        assert_eq!(echo, echoed, "{segments:?}, {then:?}");
    }
}

#[test]
fn tcp_is_told_no_clock_that_is_newer_than_what_waits() {
    let stamped = |seq: u32, val: u32| {
        let ts = Some(Timestamps { val, ecr: 9000 });
        Build::ack(CLIENT, SERVER, Seq(seq), Seq(501), 500, ts)
    };
    let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
        Front::new(h).unwrap()
    });
    with(&syn_ack(500, 101), |h| front.on_output(h, 0));
    // Too early, and TCP makes no socket: nobody keeps it.
    with(&stamped(111, 75), |h| {
        assert_eq!(front.on_input(h, 10, 0), Input::Open)
    });
    front.gave_ack();
    with(&stamped(101, 90), |h| {
        assert_eq!(front.on_input(h, 0, 0), Input::Pass)
    });
    assert_eq!(front.ack().options.ts.unwrap().val, 90);
    assert!(front.on_child());
    with(&stamped(101, 95), |h| {
        assert_eq!(front.on_input(h, 0, 0), Input::Pass)
    });
    // Overtakes an acknowledgement, which TCP must not see before it.
    with(&stamped(111, 100), |h| {
        assert_eq!(front.on_input(h, 10, 0), Input::Early)
    });
    with(&stamped(101, 110), |h| {
        assert_eq!(front.on_input(h, 0, 0), Input::Stray)
    });
    with(&stamped(101, 120), |h| {
        let take = Input::Take {
            skip: 0,
            fin: false,
        };
        assert_eq!(front.on_input(h, 10, 0), take)
    });
    assert_eq!(front.segment(0).options.ts.unwrap().val, 100);
}

#[test]
fn sequence_numbers_wrap() {
    let mut front = with(&Build::syn(CLIENT, SERVER, &facts(u32::MAX - 4, 70)), |h| {
        Front::new(h).unwrap()
    });
    with(&syn_ack(500, u32::MAX - 3), |h| front.on_output(h, 1000));
    with(&segment(u32::MAX - 3, flag::ACK), |h| {
        front.on_input(h, 0, 0)
    });
    assert!(front.on_child());
    front.took(10);
    assert_eq!(front.held(), 10);
    let input = with(&segment(u32::MAX - 3, flag::ACK), |h| {
        front.on_input(h, 12, 0)
    });
    assert_eq!(
        input,
        Input::Take {
            skip: 10,
            fin: false
        }
    );
}

#[test]
fn what_is_held_is_acknowledged_with_the_clock_and_window_of_tcp() {
    let mut front = open();
    front.took(1000);
    with(&front.acknowledge(1250, core::iter::empty()), |h| {
        assert_eq!((h.seq(), h.ack()), (Seq(501), Seq(1101)));
        assert!(!h.walk().flatten().any(|opt| opt.kind == option::SACK));
        assert_eq!((h.source(), h.dest()), (SERVER, CLIENT));
        assert_eq!(u32::from(h.window()), (64000 - 1000) >> 7);
        let ts = h.options().unwrap().ts.unwrap();
        assert_eq!((ts.val, ts.ecr), (9250, 77));
    });
    with(&front.reset(), |h| {
        assert_eq!(h.seq(), Seq(101));
        assert!(h.has(flag::RST));
    });
}

#[test]
fn what_came_early_is_told_if_the_client_asked_for_that() {
    for permitted in [true, false] {
        let mut front = open();
        front.client.options.sack_ok = permitted;
        let early = [(Seq(301), Seq(401)), (Seq(201), Seq(251))];
        with(&front.acknowledge(1250, early.into_iter()), |h| {
            let mut told = h.walk().flatten().filter(|o| o.kind == option::SACK);
            let blocks = [301_u32, 401, 201, 251].map(u32::to_be_bytes).concat();
            assert_eq!(
                told.next().map(|o| o.data),
                permitted.then_some(&blocks[..])
            );
            assert_eq!(h.options().unwrap().ts.map(|ts| ts.val), Some(9250));
            assert_eq!(h.ack(), Seq(101));
        });
    }
}

#[test]
fn a_new_syn_begins_anew_only_before_there_is_a_child() {
    let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
        Front::new(h).unwrap()
    });
    with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
    with(&Build::syn(CLIENT, SERVER, &facts(300, 71)), |h| {
        front.on_input(h, 0, 0)
    });
    assert_eq!(front.phase(), Phase::Syn);
    // The same number with other options, before there is an answer.
    let mut fewer = facts(300, 72);
    fewer.options.sack_ok = false;
    with(&Build::syn(CLIENT, SERVER, &fewer), |h| {
        front.on_input(h, 0, 0)
    });
    assert!(!front.client.options.sack_ok);
    // The answer to the old SYN no longer counts.
    with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
    assert_eq!(front.phase(), Phase::Syn);
    assert!(!front.on_child());

    let mut front = open();
    with(&Build::syn(CLIENT, SERVER, &facts(300, 71)), |h| {
        front.on_input(h, 0, 0)
    });
    assert_eq!(front.phase(), Phase::Head);
}
