// SPDX-License-Identifier: GPL-2.0

//! What BTCP counts, per network namespace: one counter per outcome, and gauges of what there is.
//!
//! The names are those of the files in `/sys/kernel/carisma/net/counters` and of `carismactl stats`;
//! the documentation of a counter is what `carismactl stats --explain` says of it. What UTCP counts
//! is kept here, too ([`Upper`]).

use carisma_core::counters;
use carisma_core::counters::{
    is_presentable, //
    Upper,
};
use carisma_net::percpu::PerCpuCounters;
use core::ffi::CStr;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

counters! {
    /// An outcome.
    pub(crate) enum Counter {
        /// A SYN of a client began a flow.
        FlowsCreated = c"flows_created",
        /// A SYN began no flow, because `flows_max` was reached. It is served as if there were no CARISMA.
        FlowsRefusedLimit = c"flows_refused_limit",
        /// A SYN began no flow, because the handshakes of `handshakes_max` flows were under way, as in a
        /// SYN flood. It is served as if there were no CARISMA.
        FlowsRefusedHandshakes = c"flows_refused_handshakes",
        /// A flow ended whose handshake was under way, because a newer one needed its place among
        /// `handshakes_max`. It is served as if there were no CARISMA.
        FlowsEvicted = c"flows_evicted",
        /// A SYN began no flow, because it is signed (MD5 or AO). It is served as if there were no CARISMA.
        FlowsRefusedOptions = c"flows_refused_options",
        /// A flow began not, or ended, for want of memory.
        FlowsRefusedMemory = c"flows_refused_memory",
        /// Frequent mode: a SYN was answered with a cookie.
        CookiesSent = c"cookies_sent",
        /// Frequent mode: a SYN was left to TCP, which could not have adopted its connection later.
        CookiesUnfit = c"cookies_unfit",
        /// Frequent mode: a client answered a cookie, and its connection began.
        CookiesAnswered = c"cookies_answered",
        /// A segment answered a cookie, but not as the client's first one does, which it may have overtaken. Other
        /// nodes were asked whether they have the connection. If one had, it was kept; else it is sent again.
        CookiesEarly = c"cookies_early",
        /// Frequent mode: a client's first segment came again when its connection was over, and was left to
        /// TCP, which resets it.
        CookiesUsed = c"cookies_used",
        /// Frequent mode: this node's TCP adopted a connection whose request was its own.
        CookiesAdopted = c"cookies_adopted",
        /// A request was served by this node, which accepted it.
        RequestsLocal = c"requests_local",
        /// A request was to be served by another node, by the rules.
        RequestsRemote = c"requests_remote",
        /// A request was to be served by another node, but this one was draining.
        RequestsLocalDraining = c"requests_local_draining",
        /// A request was to be served by another node, but the control connection to it was down.
        RequestsLocalPeerDown = c"requests_local_peer_down",
        /// A request was to be served by another node, but what its client and this node agreed at the
        /// handshake cannot be carried.
        RequestsLocalOptions = c"requests_local_options",
        /// A request was answered 503: no node of its rule could take it, and it was not to be served
        /// here, or what it holds was more than may be held.
        RequestsUnavailable = c"requests_unavailable",
        /// A connection was not withheld, because `withheld_max` were. It is served as if there were no
        /// CARISMA.
        WithheldRefusedLimit = c"withheld_refused_limit",
        /// Bytes of a client's were not held, because `held_max` of its connection were. A request that
        /// needs them is answered 503; a segment that was to wait is dropped, and sent again.
        HeldRefusedConnection = c"held_refused_connection",
        /// Bytes of a client's were not held, because `held_client_max` of it were.
        HeldRefusedClient = c"held_refused_client",
        /// Bytes of a client's were not held, because `held_total_max` were.
        HeldRefusedTotal = c"held_refused_total",
        /// A client's segment belonged to no connection of this node's, and other nodes were asked whether they
        /// serve it.
        SeeksStarted = c"seeks_started",
        /// One of them did, and the connection is forwarded to it.
        SeeksFound = c"seeks_found",
        /// Other nodes were not asked, because they were asked about 1000 connections in the same second, or
        /// because `handoffs_max` handoffs were under way. The client was reset, or sends its segment again.
        SeeksRefusedLimit = c"seeks_refused_limit",
        /// Another front end than before began to forward a connection that this node serves.
        HandoffsMoved = c"handoffs_moved",
        /// This node's TCP was given again what was held of a client's, as it had not taken it.
        HeldRepeated = c"held_repeated",
        /// A back end was not asked to take a connection over, because `handoffs_max` handoffs were
        /// under way.
        HandoffsRefusedLimit = c"handoffs_refused_limit",
        /// A back end was not asked to take a connection over, because no route leads there in the way in
        /// which segments go to it: directly, without a gateway, or through a tunnel.
        HandoffsRefusedRoute = c"handoffs_refused_route",
        /// A back end was asked to take a connection over.
        HandoffsStarted = c"handoffs_started",
        /// One of `handoffs_started`, at which the back end got the request at once.
        HandoffsTrusted = c"handoffs_trusted",
        /// A back end took a connection over.
        HandoffsAccepted = c"handoffs_accepted",
        /// A back end refused a connection. The next node of the rule was asked, or the request served
        /// locally, or answered 503.
        HandoffsRejected = c"handoffs_rejected",
        /// One of `handoffs_rejected`, because its TCP did not agree to what this node's had.
        HandoffsRejectedOptions = c"handoffs_rejected_options",
        /// One of `handoffs_rejected`, because the address that segments would come to is none of its own.
        HandoffsRejectedAddress = c"handoffs_rejected_address",
        /// A back end did not answer within `handoff_timeout_ms`. What then: as for
        /// `handoffs_rejected`.
        HandoffsTimedOut = c"handoffs_timed_out",
        /// A handoff was given up before the back end had answered: the client or the peer went away.
        HandoffsAborted = c"handoffs_aborted",
        /// A connection was taken over from a front end.
        HandoffsIn = c"handoffs_in",
        /// One of `handoffs_in`, whose numbers this node's TCP adopted: nothing of it is translated.
        HandoffsInAdopted = c"handoffs_in_adopted",
        /// A connection that a front end offered was refused.
        HandoffsInRefused = c"handoffs_in_refused",
        /// A connection that a front end offered was given up before the front end had committed it.
        HandoffsInAborted = c"handoffs_in_aborted",
        /// A front end committed a connection that was not known here, or not any more: it was told so.
        HandoffsInUnknown = c"handoffs_in_unknown",
        /// A request head was not HTTP, or ambiguous. It was left to the local server.
        HeadsBad = c"heads_bad",
        /// A request head was longer than `head_max`. It was answered 431, and the connection closed.
        HeadsTooLong = c"heads_too_long",
        /// A request head began, but was not whole within `head_timeout_ms`. It was answered 408, and
        /// the connection closed.
        HeadsTimedOut = c"heads_timed_out",
        /// No byte of a request came within `head_timeout_ms`. The connection was left to the local
        /// server or, in frequent mode, forgotten until one comes.
        HeadsAbsent = c"heads_absent",
        /// A segment of a request came before one that was missing, and was kept until its turn.
        SegmentsEarly = c"segments_early",
        /// A segment of a request came before one that was missing, and could not be kept: too many
        /// were, or it was too far ahead. The client sends it again.
        SegmentsEarlyDropped = c"segments_early_dropped",
        /// A packet of a client was forwarded to the back end.
        PacketsForwarded = c"packets_forwarded",
        /// A packet of a client was translated for this back end's TCP.
        PacketsTranslatedIn = c"packets_translated_in",
        /// A packet of this back end's TCP was translated for the client.
        PacketsTranslatedOut = c"packets_translated_out",
        /// A packet was held while a handoff was under way.
        PacketsParked = c"packets_parked",
        /// A packet of a connection that had moved was dropped.
        PacketsDroppedStale = c"packets_dropped_stale",
        /// A packet was dropped because it was malformed.
        PacketsDroppedMalformed = c"packets_dropped_malformed",
        /// A packet was taken out of one of IP in IP, in which another node had sent it through a tunnel.
        PacketsUntunnelled = c"packets_untunnelled",
        /// Always mode: what had handed a connection over came again when that was over.
        HandoffsInUsed = c"handoffs_in_used",
        /// Always mode: a segment of a back end's was passed on by way of the front end; both count it.
        PacketsRelayed = c"packets_relayed",
        /// A packet of IP in IP from another node was dropped for want of memory, because more packets came
        /// than this node keeps up with, or because it said that a router was congested, which the packet
        /// within does not know of.
        PacketsDroppedTunnel = c"packets_dropped_tunnel",
        /// A packet was dropped because no route led to its end, or only one with a gateway to a node that
        /// segments go to directly.
        PacketsDroppedUnroutable = c"packets_dropped_unroutable",
        /// A packet of a client was dropped, because it was too big for the way to the back end and was
        /// not to be fragmented. The client was told by ICMP.
        PacketsDroppedTooBig = c"packets_dropped_too_big",
        /// An ICMP error about a connection that another node serves was sent on to that node.
        IcmpRelayed = c"icmp_relayed",
        /// An ICMP error about a connection that this node serves for a front end was translated for this
        /// back end's TCP.
        IcmpTranslated = c"icmp_translated",
        /// An ICMP error about a handed-off connection was dropped, because it quoted less than 8 bytes
        /// of TCP, or was not sent to the address that it quotes as the source.
        IcmpDroppedMalformed = c"icmp_dropped_malformed",
        /// A front end was told that a connection is closed.
        ClosedNotified = c"closed_notified",
        /// A back end told that a connection is closed, or has another front end now.
        ClosedHeard = c"closed_heard",
        /// Always mode: a back end of which nothing was heard was asked whether it has a connection.
        PresenceAsked = c"presence_asked",
        /// Always mode: a connection was forgotten, as nothing came of its client for too long.
        FlowsIdle = c"flows_idle",
        /// A connection ended with a reset, because its peer or this module went away.
        FlowsReset = c"flows_reset",
        /// A record of a peer was malformed, of an unknown kind, or about no flow of ours.
        RecordsBad = c"records_bad",
        /// A record could not be sent: the peer was down or its queue full.
        RecordsUnsent = c"records_unsent",
    }
}

counters! {
    /// What there is at the moment.
    pub(crate) enum Gauge {
        /// Connections that are known.
        Flows = c"flows",
        /// Connections whose socket is kept from `accept()`.
        Withheld = c"withheld",
        /// Connections that other nodes serve, with this one as front end.
        HandedOffOut = c"handed_off_out",
        /// Connections that this node serves for other front ends.
        HandedOffIn = c"handed_off_in",
        // These are what is taken of bounds.
        /// Bytes of memory that hold what clients have sent.
        HeldBytes = c"held_bytes",
        /// Connections whose handshake is under way.
        Handshakes = c"handshakes",
        /// Handoffs that back ends were asked for, and have not taken yet.
        HandoffsAsked = c"handoffs_asked",
        /// Handoffs that this node was asked for, and that were not committed yet.
        HandoffsReplayed = c"handoffs_replayed",
    }
}

/// Everything that is counted: one counter, or gauge, after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stat {
    /// An outcome.
    Counter(Counter),
    /// An outcome at UTCP.
    Upper(Upper),
    /// What there is at the moment.
    Gauge(Gauge),
}

impl Stat {
    /// How many there are.
    pub(crate) const COUNT: usize = Counter::COUNT + Upper::COUNT + Gauge::COUNT;

    /// The one of this number.
    pub(crate) const fn of(number: usize) -> Option<Self> {
        const FIRST_GAUGE: usize = Counter::COUNT + Upper::COUNT;
        if number < Counter::COUNT {
            Some(Self::Counter(Counter::ALL[number]))
        } else if number < FIRST_GAUGE {
            Some(Self::Upper(Upper::ALL[number - Counter::COUNT]))
        } else if number < Self::COUNT {
            Some(Self::Gauge(Gauge::ALL[number - FIRST_GAUGE]))
        } else {
            None
        }
    }

    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).filter_map(Self::of)
    }

    /// The name that users know.
    pub(crate) const fn name(self) -> &'static CStr {
        match self {
            Self::Counter(it) => it.name(),
            Self::Upper(it) => it.name(),
            Self::Gauge(it) => it.name(),
        }
    }

    /// What it means, in one line.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Counter(it) => it.meaning(),
            Self::Upper(it) => it.meaning(),
            Self::Gauge(it) => it.meaning(),
        }
    }
}

// Users see all of them.
const _: () = {
    let mut number = 0;
    while let Some(it) = Stat::of(number) {
        assert!(is_presentable(it.name(), it.meaning()));
        number += 1;
    }
};

/// The counters and gauges of a namespace. Any context.
pub(crate) struct Counters {
    counters: PerCpuCounters<{ Counter::COUNT }>,
    uppers: PerCpuCounters<{ Upper::COUNT }>,
    gauges: [Atomic<i64>; Gauge::COUNT],
}

impl Counters {
    /// Counts from nothing. Process context.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            counters: PerCpuCounters::new()?,
            uppers: PerCpuCounters::new()?,
            gauges: [const { Atomic::new(0) }; Gauge::COUNT],
        })
    }

    /// Counts one.
    pub(crate) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n`.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        self.counters.add(counter as usize, n);
    }

    /// What a counter came to.
    pub(crate) fn value(&self, counter: Counter) -> u64 {
        self.counters.sum(counter as usize)
    }

    /// Counts one at UTCP, by the number of its counter.
    pub(crate) fn count_upper(&self, number: usize) {
        self.uppers.add(number, 1);
    }

    /// What a counter of UTCP's came to.
    pub(crate) fn upper(&self, upper: Upper) -> u64 {
        self.uppers.sum(upper as usize)
    }

    /// There is one more.
    pub(crate) fn up(&self, gauge: Gauge) {
        if let Some(gauge) = self.gauges.get(gauge as usize) {
            gauge.add(1, Relaxed);
        }
    }

    /// There is one less.
    pub(crate) fn down(&self, gauge: Gauge) {
        if let Some(gauge) = self.gauges.get(gauge as usize) {
            gauge.add(-1, Relaxed);
        }
    }

    /// How many there are, as [`up`](Self::up) and [`down`](Self::down) have told.
    pub(crate) fn level(&self, gauge: Gauge) -> u64 {
        let level = self.gauges.get(gauge as usize).map(|it| it.load(Relaxed));
        // A reader may see a `down` before the `up` of another CPU.
        level
            .and_then(|level| u64::try_from(level).ok())
            .unwrap_or(0)
    }
}
