// SPDX-License-Identifier: GPL-2.0

//! Connections that are handed off in band, in *always* mode (paper, section 6): by the client's own
//! segments, without a control connection. Of their end the front end hears by what the back end
//! relays: segments without payload that say so. Data goes straight to the client.

use crate::{
    seq::Seq,
    tcp::{
        flag,
        Header, //
    },
    wire::Reason,
};

/// What a back end says by a segment that no TCP makes: it does not take the connection, and no
/// server has seen any of it. The window is the number of a [`Reason`].
pub const REFUSED: u8 = flag::SYN | flag::RST;

/// What answers a front end that asks, by a [`REFUSED`] whose window is a [`Question`], about a connection:
/// it acknowledges the question's number. The window is a [`Standing`].
pub const ANSWER: u8 = REFUSED | flag::ACK;

/// What a front end asks about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether the back end, which was given it, has it. The number is the one behind all that its client
    /// has sent.
    Presence,
    /// Whether the back end has it. If so, it is for this front end from now on, which knows nothing of it
    /// but that its client is there. The number is what the client acknowledges.
    Claim,
}

impl Question {
    /// The one whose number a window is.
    #[must_use]
    pub fn of(window: u16) -> Self {
        match window {
            1 => Self::Claim,
            _ => Self::Presence,
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Presence => 0,
            Self::Claim => 1,
        }
    }
}

/// What a back end has of a connection for the front end that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has it, maybe in TIME_WAIT. If it was claimed, the answer's number is what TCP expects next of
    /// the client.
    Present,
    /// It has, or had, it for another front end.
    Moved,
    /// It has it not.
    Absent,
}

impl Standing {
    /// The one whose number a window is: that of any reason is [`Absent`](Self::Absent).
    #[must_use]
    pub fn of(window: u16) -> Self {
        match window {
            0 => Self::Present,
            u16::MAX => Self::Moved,
            _ => Self::Absent,
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Present => 0,
            Self::Moved => u16::MAX,
            Self::Absent => Reason::Unknown.number(),
        }
    }
}

/// How long nothing may come from a client until its connection is forgotten, in milliseconds, if both
/// ends have said that they will send no more: as long as a TIME_WAIT lasts.
const ENDING_MS: u32 = 60_000;

/// The same, if the client has reset it: a reset that its TCP did not believe is followed by other
/// segments (RFC 5961, section 3).
const RESET_MS: u32 = 10_000;

/// How far back a number is told from one that is ahead.
const SENT_MAX: u32 = (1 << 31) - 1;

/// How a segment of the back end's TCP gets to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Straight.
    Direct,
    /// By way of the front end.
    Relayed,
    /// Its payload straight, and its FIN by way of the front end.
    Split,
}

impl Route {
    /// The route of a segment with `payload` bytes. `first` is the number of the server's first
    /// byte: while nothing has been sent the front end may not know that the request has come, so
    /// that acknowledgements are for it, too.
    #[must_use]
    pub fn of(header: &Header<'_>, payload: usize, first: Seq) -> Self {
        match (header.has(flag::FIN), payload) {
            (true, 1..) => Self::Split,
            (true, 0) => Self::Relayed,
            (false, 0) if header.has(flag::RST) || header.seq() == first => Self::Relayed,
            _ => Self::Direct,
        }
    }
}

/// How much is left of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It goes on.
    Open,
    /// It is forgotten when nothing has come of the client for so many milliseconds.
    Idle(u32),
    /// It is over, and maybe one end keeps it in TIME_WAIT.
    Over {
        /// It is the back end's.
        time_wait: bool,
    },
}

/// What a front end has seen of a connection's end.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    /// The number behind what the client has sent.
    next: Seq,
    /// How many of the numbers before that are this connection's: no more than can be told from those ahead.
    sent: u32,
    /// The number behind each end's FIN.
    client: Option<Seq>,
    server: Option<Seq>,
    /// The back end had the client's FIN before it sent its own: it keeps no TIME_WAIT.
    passive: bool,
    /// The client has acknowledged the server's FIN.
    acked: bool,
    /// The client's newest segment was a reset.
    reset: bool,
    /// The server has reset it.
    dead: bool,
}

impl Closing {
    /// The end is not in sight; the client has sent what begins at `first` and ends before `next`, and
    /// maybe something before that.
    #[must_use]
    pub fn new(first: Seq, next: Seq) -> Self {
        Self {
            next,
            sent: next.since(first).min(SENT_MAX),
            client: None,
            server: None,
            passive: false,
            acked: false,
            reset: false,
            dead: false,
        }
    }

    /// A segment of the client's with `payload` bytes. Whether that changes what is [`left`](Self::left).
    pub fn on_client(&mut self, header: &Header<'_>, payload: u32) -> bool {
        let before = self.left();
        self.reset = header.has(flag::RST);
        let end = header.seq().add(header.seq_len(payload));
        if end.gt(self.next) && !self.reset {
            let sent = self.sent.saturating_add(end.since(self.next));
            self.sent = sent.min(SENT_MAX);
            self.next = end;
        }
        if header.flags() & (flag::FIN | flag::RST) == flag::FIN {
            self.client = Some(end);
        }
        if header.has(flag::ACK) && self.server.is_some_and(|fin| header.ack().ge(fin)) {
            self.acked = true;
        }
        self.left() != before
    }

    /// A segment of the server's, which has no payload. Whether that changes what is left.
    pub fn on_server(&mut self, header: &Header<'_>) -> bool {
        let before = self.left();
        if header.has(flag::RST) {
            self.dead = true;
        } else if header.has(flag::FIN) && self.server.is_none() {
            self.server = Some(header.seq().add(1));
            self.passive = self.client.is_some_and(|fin| header.ack().ge(fin));
        }
        self.left() != before
    }

    /// How much is left.
    #[must_use]
    pub fn left(&self) -> Left {
        match (self.client, self.server) {
            _ if self.dead => Left::Over { time_wait: false },
            (Some(_), Some(_)) if self.acked => Left::Over {
                time_wait: !self.passive,
            },
            _ if self.reset => Left::Idle(RESET_MS),
            (Some(_), Some(_)) => Left::Idle(ENDING_MS),
            _ => Left::Open,
        }
    }

    /// The number behind what the client has sent, as far as it was seen.
    #[must_use]
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Whether the client may begin a new connection in the place of this one.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.reset
    }

    /// Whether the server has said that it will send no more.
    #[must_use]
    pub fn is_said(&self) -> bool {
        self.server.is_some()
    }

    /// Whether a number is this connection's, and the client has sent all that comes before it. Another
    /// connection of the same ends had others before.
    #[must_use]
    pub fn has(&self, number: Seq) -> bool {
        self.next.since(number) <= self.sent
    }
}

/// How often a back end is asked that does not answer, and how long there need be no sign of it while the
/// client repeats itself, in milliseconds.
pub const ASK_MS: u32 = 1_000;

/// What is to be done about a back end of which nothing is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing, for so many milliseconds.
    None(u32),
    /// It is asked whether it has the connection, and looked at again after so many milliseconds.
    Ask(u32),
    /// It has been asked for long enough.
    Lost,
}

/// Whether a connection's back end is still there. Its data goes straight to the client, so that a front
/// end may see nothing of it for as long as the connection lives. So it asks, when there was no sign of it
/// for long, and sooner if the client sends again what it has sent.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// When there was a sign of it last, in milliseconds of any clock; or, if it has been asked in vain, since
    /// when.
    since: u32,
    asked: bool,
    /// The client has repeated itself since.
    repeats: bool,
}

impl Watch {
    /// There was a sign of it at `now`.
    #[must_use]
    pub fn new(now: u32) -> Self {
        Self {
            since: now,
            asked: false,
            repeats: false,
        }
    }

    /// The client repeats itself. If it is to be looked at sooner for that, after how many milliseconds.
    pub fn on_repeat(&mut self) -> Option<u32> {
        let first = !core::mem::replace(&mut self.repeats, true);
        (first && !self.asked).then_some(ASK_MS)
    }

    /// It is time to look at it; `patience` is how long there need be no sign of it, and how long it is
    /// asked in vain.
    pub fn on_timer(&mut self, now: u32, patience: u32) -> Doubt {
        let waited = now.wrapping_sub(self.since);
        if self.asked {
            return match waited >= patience {
                true => Doubt::Lost,
                false => Doubt::Ask(ASK_MS),
            };
        }
        let due = match self.repeats {
            true => patience.min(ASK_MS),
            false => patience,
        };
        match due.saturating_sub(waited) {
            0 => {
                (self.since, self.asked) = (now, true);
                Doubt::Ask(ASK_MS)
            }
            left => Doubt::None(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::Build;

    fn with<R>(flags: u8, seq: u32, ack: u32, f: impl FnOnce(&Header<'_>) -> R) -> R {
        let build = Build {
            flags,
            ..Build::ack(40000, 80, Seq(seq), Seq(ack), 500, None)
        };
        let (mut out, any) = ([0; 60], [0; 16]);
        let len = build.write(&mut out, &any, &any, &[]).unwrap();
        f(&Header::parse(&out[..len]).unwrap())
    }

    const ACK: u8 = flag::ACK;
    const FIN: u8 = flag::FIN | flag::ACK;
    const RST: u8 = flag::RST;

    /// What is left after segments: of the client's if they have payload, or `None`; else the server's.
    fn after(segments: &[(bool, u8, u32, u32)]) -> Left {
        let mut closing = Closing::new(Seq(101), Seq(101));
        for &(client, flags, seq, ack) in segments {
            with(flags, seq, ack, |header| match client {
                true => closing.on_client(header, 0),
                false => closing.on_server(header),
            });
        }
        closing.left()
    }

    #[test]
    fn payload_goes_straight_and_ends_by_the_front_end() {
        let route = |flags, seq, payload| with(flags, seq, 1, |h| Route::of(h, payload, Seq(501)));
        assert_eq!(route(ACK, 501, 10), Route::Direct);
        assert_eq!(route(ACK, 501, 0), Route::Relayed);
        assert_eq!(route(ACK, 601, 0), Route::Direct);
        assert_eq!(route(FIN, 601, 0), Route::Relayed);
        assert_eq!(route(FIN, 601, 10), Route::Split);
        assert_eq!(route(RST, 601, 0), Route::Relayed);
        assert_eq!(route(RST | ACK, 601, 0), Route::Relayed);
    }

    #[test]
    fn windows_are_questions_and_answers() {
        for it in [Question::Presence, Question::Claim] {
            assert_eq!(Question::of(it.number()), it);
        }
        for it in [Standing::Present, Standing::Moved, Standing::Absent] {
            assert_eq!(Standing::of(it.number()), it);
        }
        // No reason says anything else than that there is no connection.
        for reason in 1..=8 {
            assert_eq!(Standing::of(reason), Standing::Absent);
        }
        assert_eq!(Question::of(500), Question::Presence);
    }

    #[test]
    fn it_is_over_when_both_ends_have_heard() {
        let (client, server) = (true, false);
        assert_eq!(after(&[(client, ACK, 101, 501)]), Left::Open);
        // Who closes first keeps it in TIME_WAIT.
        let first = [(client, FIN, 101, 501), (server, FIN, 501, 102)];
        assert_eq!(after(&first), Left::Idle(ENDING_MS));
        let both = [&first[..], &[(client, ACK, 102, 502)]].concat();
        assert_eq!(after(&both), Left::Over { time_wait: false });
        let first = [
            (server, FIN, 501, 101),
            (client, ACK, 101, 502),
            (client, FIN, 101, 502),
        ];
        assert_eq!(after(&first[..2]), Left::Open);
        assert_eq!(after(&first), Left::Over { time_wait: true });
        // Repeated ones change nothing.
        let again = [
            &first[..1],
            &first[..1],
            &[(server, FIN, 501, 102)],
            &first[1..],
        ]
        .concat();
        assert_eq!(after(&again), Left::Over { time_wait: true });
        // Half closed it goes on.
        assert_eq!(after(&[(client, FIN, 101, 501)]), Left::Open);
    }

    #[test]
    fn a_client_s_reset_may_not_be_believed() {
        let (client, server) = (true, false);
        let reset = [(client, RST, 300, 0)];
        assert_eq!(after(&reset), Left::Idle(RESET_MS));
        let on = [&reset[..], &[(client, ACK, 101, 501)]].concat();
        assert_eq!(after(&on), Left::Open);
        let dead = [&on[..], &[(server, RST, 501, 0)]].concat();
        assert_eq!(after(&dead), Left::Over { time_wait: false });
    }

    #[test]
    fn a_silent_back_end_is_asked_and_given_up() {
        let start = u32::MAX - 700;
        let at = |ms: u32| start.wrapping_add(ms);
        let mut watch = Watch::new(start);
        assert_eq!(watch.on_timer(at(10_000), 30_000), Doubt::None(20_000));
        assert_eq!(watch.on_timer(at(30_000), 30_000), Doubt::Ask(ASK_MS));
        assert_eq!(watch.on_timer(at(59_999), 30_000), Doubt::Ask(ASK_MS));
        assert_eq!(watch.on_timer(at(60_000), 30_000), Doubt::Lost);
        // A sign of it is the beginning.
        watch = Watch::new(at(60_000));
        assert_eq!(watch.on_timer(at(60_000), 30_000), Doubt::None(30_000));
    }

    #[test]
    fn it_is_asked_sooner_if_the_client_repeats_itself() {
        let mut watch = Watch::new(5_000);
        assert_eq!(watch.on_repeat(), Some(ASK_MS));
        // What comes again and again does not put it off.
        assert_eq!(watch.on_repeat(), None);
        assert_eq!(watch.on_timer(5_900, 30_000), Doubt::None(100));
        assert_eq!(watch.on_timer(6_000, 30_000), Doubt::Ask(ASK_MS));
        assert_eq!(watch.on_repeat(), None);
        assert_eq!(watch.on_timer(36_000, 30_000), Doubt::Lost);
    }

    #[test]
    fn a_number_tells_whose_it_is() {
        // The client's first numbers, how often it has sent 2^30 bytes more, other numbers, and whether they are
        // of this connection.
        let half = 1 << 31;
        type Case<'a> = (u32, u32, u32, &'a [(u32, bool)]);
        let cases: &[Case<'_>] = &[
            (101, 101, 0, &[(100, false), (101, true), (102, false)]),
            (
                101,
                111,
                0,
                &[(50, false), (101, true), (111, true), (112, false)],
            ),
            (
                u32::MAX,
                9,
                0,
                &[(u32::MAX, true), (u32::MAX - 1, false), (9, true)],
            ),
            // A connection before it had such a number.
            (101, 111, 0, &[(half, false), (half + 112, false)]),
            (
                101,
                111,
                1,
                &[(50, false), (101, true), (111 + (1 << 30), true)],
            ),
            // What is too far back to be told from what is ahead.
            (
                101,
                111,
                2,
                &[
                    (half + 111, true),
                    (half + 112, false),
                    (111, false),
                    (112, true),
                ],
            ),
            // All numbers have been this connection's.
            (101, 111, 4, &[(50, true), (111, true), (112, false)]),
        ];
        for &(first, next, often, numbers) in cases {
            let mut closing = Closing::new(Seq(first), Seq(next));
            for n in 0..often {
                let seq = next.wrapping_add(n << 30);
                with(ACK, seq, 501, |it| closing.on_client(it, 1 << 30));
            }
            assert_eq!(closing.next(), Seq(next).add(often << 30));
            for &(number, ours) in numbers {
                assert_eq!(closing.has(Seq(number)), ours, "{number}, {often} later");
            }
        }
    }
}
