// SPDX-License-Identifier: GPL-2.0

//! The two hooks: which segments are ours, and whose they are.

use crate::{
    flow::{FlowRef, Over, Stage},
    front::is_opening,
    state::State,
};
use carisma_core::{
    tcp::{self, flag},
    tuple::{Addr, Tuple},
};
use carisma_net::{
    connection,
    netfilter::{Hooks, PacketContext},
    skb::{Ends, Skb},
};
use kernel::sync::rcu;

impl State {
    /// Whether connections to this address and port may be ours.
    pub(crate) fn is_endpoint(&self, addr: &Addr, port: u16, rcu: &rcu::Guard) -> bool {
        self.config.snapshot(rcu).is_endpoint(addr, port)
    }
}

impl Hooks for State {
    #[inline]
    fn minds(&self, skb: &Skb, rcu: &rcu::Guard) -> bool {
        // Most segments are of connections that we have nothing to do with any more.
        skb.ends().is_none_or(|ends| {
            let served = || self.is_endpoint(&ends.destination, ends.destination_port, rcu);
            let answers = || {
                self.expects_cookies()
                    && ends.flags & (flag::ACK | flag::RST) == flag::ACK
                    && served()
                    && !connection::is_live(&self.net, &key_of(&ends))
            };
            self.flows.may_have(&ends.source, ends.source_port)
                || is_opening(ends.flags) && served()
                || answers()
        })
    }

    #[inline]
    fn input(&self, mut skb: Skb, ctx: &PacketContext) -> Option<Skb> {
        let ends = match skb.ends() {
            Some(ends) => ends,
            None => {
                skb = skb.gathered(&self.net, ctx)?;
                match skb.ends() {
                    Some(ends) => ends,
                    None => return self.icmp_input(skb, ctx),
                }
            }
        };
        let key = key_of(&ends);
        loop {
            let done = match self.flows.lookup_under(&key, ctx.rcu()) {
                None if !is_opening(ends.flags) => {
                    let port = ends.destination_port;
                    match self.expects_cookies() && self.is_endpoint(&key.local, port, ctx.rcu()) {
                        true => Ok(self.front_answered(&key, ends.flags, skb, ctx)),
                        false => Ok(Some(skb)),
                    }
                }
                flow => self.input_of(&key, flow, ends.flags, skb, ctx),
            };
            match done {
                Ok(passed) => return passed,
                Err(Gone(again)) => skb = again,
            }
        }
    }

    #[inline]
    fn output(&self, skb: Skb, rcu: &rcu::Guard) -> Option<Skb> {
        let Some(ends) = skb.ends() else {
            return self.icmp_output(skb);
        };
        // Here as well; only resets may be waited with.
        if ends.flags & flag::RST == 0
            && !self
                .flows
                .may_have(&ends.destination, ends.destination_port)
        {
            return Some(skb);
        }
        let key = Tuple::new(
            ends.destination,
            ends.destination_port,
            ends.source,
            ends.source_port,
        );
        let skb = match self.flows.lookup_under(&key, rcu) {
            None => skb,
            Some(flow) => match self.output_of(flow, skb, rcu) {
                Ok(passed) => return passed,
                Err(Gone(skb)) => skb,
            },
        };
        match self.is_endpoint(&key.local, ends.source_port, rcu) {
            true => self.front_stray(&key, &ends, skb),
            false => Some(skb),
        }
    }
}

/// The connection of a client's segment with these ends.
#[inline(always)]
fn key_of(ends: &Ends) -> Tuple {
    let local = ends.destination_port;
    Tuple::new(ends.source, ends.source_port, ends.destination, local)
}

/// The flow of this packet has just gone: there is another one, or none, by now.
struct Gone(Skb);

// What follows is not looked at for segments of connections that we have nothing to do with.
impl State {
    /// A client's segment on a connection of ours, if there is a flow, or one that opens it.
    #[inline(never)]
    fn input_of(
        &self,
        key: &Tuple,
        flow: Option<FlowRef>,
        flags: u8,
        mut skb: Skb,
        ctx: &PacketContext,
    ) -> Result<Option<Skb>, Gone> {
        let Some(layout) = skb.layout() else {
            // TCP drops it too, and counts it.
            return Ok(Some(skb));
        };
        let Some(flow) = flow else {
            return Ok(self.front_begin(key, skb, &layout, ctx));
        };
        let inner = flow.inner.lock();
        if is_opening(flags) && self.is_superseded(key, &inner.stage) {
            self.supersede(&flow, inner);
            return Ok(self.front_begin(key, skb, &layout, ctx));
        }
        if self.front_begins(key, &inner.stage, &skb, &layout, ctx.rcu()) {
            self.end(&flow, inner);
            return Ok(self.front_answered(key, flags, skb, ctx));
        }
        Ok(match inner.stage {
            Stage::Gone => return Err(Gone(skb)),
            Stage::Deciding(_) | Stage::Asked(_) => {
                self.front_input(&flow, inner, skb, &layout, ctx)
            }
            Stage::Committed(ref deciding) if deciding.in_band => {
                self.front_awaited(&flow, inner, skb, &layout, ctx);
                None
            }
            // Whoever will get it, TCP here must not see it now.
            Stage::Committed(_) | Stage::Entering(_) | Stage::Seeking(_) => {
                let mut inner = inner;
                self.park(&mut inner, skb);
                None
            }
            Stage::Forward(_) | Stage::Over(Over::Forward(_)) => {
                self.front_forward(&flow, inner, skb, &layout, ctx);
                None
            }
            Stage::Replay(_) | Stage::Live(_) | Stage::Over(Over::Live(_)) => {
                self.back_input(inner, skb, &layout)
            }
            Stage::Leaving(_) => Some(skb),
        })
    }

    /// A segment of TCP's here on a connection of ours.
    #[inline(never)]
    fn output_of(
        &self,
        flow: FlowRef,
        mut skb: Skb,
        rcu: &rcu::Guard,
    ) -> Result<Option<Skb>, Gone> {
        let Some(layout) = skb.layout() else {
            return Ok(None);
        };
        let mut inner = flow.inner.lock();
        Ok(match inner.stage {
            Stage::Gone => return Err(Gone(skb)),
            Stage::Replay(_) | Stage::Live(_) | Stage::Over(Over::Live(_)) => {
                self.back_output(&flow, inner, skb, &layout)
            }
            _ => {
                let Some(header) = skb.tcp(&layout).and_then(tcp::Header::parse) else {
                    return Ok(None);
                };
                let opens = header.has(flag::SYN);
                // Nobody listens.
                let refuses = header.has(flag::RST | flag::ACK);
                if refuses && matches!(&inner.stage, Stage::Deciding(it) if !it.is_open()) {
                    self.end(&flow, inner);
                    return Ok(Some(skb));
                }
                if self.front_output(flow.key(), &mut inner, &header) {
                    drop(inner);
                    match opens && self.config.snapshot(rcu).has_tunnels() {
                        true => {
                            let ctx = PacketContext::enter();
                            self.tunnel_clamp(flow.key(), skb, &layout, &ctx)
                        }
                        false => Some(skb),
                    }
                } else {
                    self.counters
                        .count(crate::counters::Counter::PacketsDroppedStale);
                    None
                }
            }
        })
    }
}
