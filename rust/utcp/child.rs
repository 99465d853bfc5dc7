// SPDX-License-Identifier: GPL-2.0

//! The children of a namespace's listeners: from being withheld until they are released, discarded
//! or answered, or die.

use super::{
    counters::Counter,
    listener::Appended,
    withheld::{
        Fate,
        Taken,
        Withheld, //
    },
    Ns, Todo, CLOSING, RETRY_MS,
};
use carisma_core::tuple::Tuple;
use carisma_net::{
    below, connection,
    link::{
        kind,
        Msg, //
    },
    listener::{
        Candidate,
        Held, //
    },
    sock::{
        Sock,
        State, //
    },
    table::{
        Entry,
        Refused, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Relaxed, //
        },
        rcu, //
    },
};

/// Children that may be withheld at a time in one namespace: as many as BTCP's `withheld_max` allows at
/// most, which is what counts.
const WITHHELD_MAX: usize = 1 << 20;

impl Ns {
    /// TCP has made a child.
    pub(super) fn child(&self, sk: &Sock, candidate: Candidate<'_>) {
        if CLOSING.load(Acquire) {
            return;
        }
        let child = candidate.child();
        let tuple = child.tuple();
        if !self.has(&tuple) {
            return;
        }
        // Mostly the request was decided before, and is this node's own.
        let asked = below::put(&self.net, Msg::about(kind::CONN_ASK, &tuple));
        if asked == Ok(0) {
            self.counters.count(Counter::ConnectionsPassedDecided);
            return;
        }
        let Some(listener) = self.find_listener(sk) else {
            return;
        };
        let entry = Entry::new(&tuple, Withheld::new(listener.clone(), child));
        let Ok(entry) = entry else {
            self.counters.count(Counter::ConnectionsPassedMemory);
            return;
        };
        if let Err(why) = self.withheld.insert(&entry, WITHHELD_MAX) {
            self.counters.count(match why {
                Refused::Full => Counter::ConnectionsPassedLimit,
                Refused::Exists | Refused::NoMemory => Counter::ConnectionsPassedMemory,
            });
            return;
        }
        let Some(held) = candidate.hold() else {
            self.withheld.remove(&entry);
            self.counters.count(Counter::ConnectionsPassedMemory);
            return;
        };
        let told = below::put(&self.net, Msg::about(kind::CONN_IND, &tuple));
        let Some(rtt) = told.ok().and_then(|told| told.checked_sub(1)) else {
            self.withheld.remove(&entry);
            held.pass();
            self.counters.count(Counter::ConnectionsPassedDecided);
            return;
        };
        held.set_rtt(rtt);
        self.counters.count(Counter::ConnectionsWithheld);

        let mut held = Some(held);
        let outcome = listener.unless_closing(|| match held.take() {
            Some(held) => entry.hold(held),
            None => Ok(()),
        });
        match outcome {
            Some(Ok(())) => {}
            Some(Err((held, fate))) => {
                self.withheld.remove(&entry);
                match fate {
                    Fate::Release => {
                        held.pass();
                        self.counters.count(Counter::ConnectionsReleased);
                    }
                    Fate::Discard => {
                        self.discard(held);
                        self.counters.count(Counter::ConnectionsDiscarded);
                    }
                    // At the bound it was discarded, and counted.
                    Fate::Answer(answer) => drop(self.answer(held, answer)),
                }
            }
            None => {
                self.withheld.remove(&entry);
                if let Some(held) = held {
                    held.pass();
                }
                self.counters.count(Counter::ConnectionsPassedClosing);
            }
        }
    }

    /// Whether a listener may get a child: not while released ones wait for room in its accept queue, of
    /// which TCP does not know. So there are never more than were withheld at a time. Any context.
    pub(super) fn has_room(&self, sk: &Sock) -> bool {
        let is_awaited = || self.find_listener(sk).is_some_and(|it| it.is_awaited());
        !self.waiting.load(Relaxed) || !is_awaited()
    }

    /// Whether a connection is one to a service of ours. Any context.
    fn has(&self, tuple: &Tuple) -> bool {
        self.services.read(&rcu::read_lock()).have(tuple)
    }

    /// The withheld child of a connection, if it is this socket, or whichever.
    fn lookup(&self, tuple: &Tuple, sk: Option<&Sock>) -> Option<Entry<Withheld>> {
        self.withheld
            .lookup(tuple)
            .filter(|entry| sk.is_none_or(|sk| entry.is_of(sk)))
    }

    /// A socket goes to ESTABLISHED, its lock held: TCP is through with its request.
    pub(super) fn established(&self, sk: &Sock) {
        if self.withheld.is_empty() {
            return;
        }
        let tuple = sk.tuple();
        if let Some(entry) = self.lookup(&tuple, Some(sk)) {
            if let Some(held) = entry.settle() {
                self.release(&entry, held);
            }
        }
    }

    /// A socket goes to CLOSE, its lock held.
    pub(super) fn closed(&self, sk: &Sock, old: State) {
        if !self.served.load(Relaxed) {
            return;
        }
        let tuple = sk.tuple();
        if let Some(entry) = self.lookup(&tuple, Some(sk)) {
            // Its owner frees it after it has had the lock.
            if let Some((held, _)) = entry.take_anyhow() {
                self.withheld.remove(&entry);
                self.counters.count(Counter::ConnectionsDied);
                self.discard(held);
            }
        } else if old == State::Opening && connection::is_live(&self.net, &tuple) {
            // Of a handshake that two segments end at the same time TCP makes two children, and
            // drops the one that comes second to its tables: the connection goes on. One whose
            // listener goes before it is queued has no twin: it is over.
            if self.has(&tuple) {
                self.counters.count(Counter::ConnectionsTwin);
            }
            return;
        }
        if self.has(&tuple) {
            self.counters.count(Counter::ConnectionsClosed);
        }
        // BTCP may know it though its service is none any more.
        let waits = old == State::Closing && !sk.has_error();
        let msg = Msg {
            value: u64::from(waits),
            ..Msg::about(kind::DISCON_IND, &tuple)
        };
        // What BTCP does not know is not its business.
        let _ = below::put(&self.net, msg);
    }

    /// Appends a child, which has just been taken, to the accept queue. Any context.
    pub(super) fn release(&self, entry: &Entry<Withheld>, held: Held) {
        self.withheld.remove(entry);
        self.counters.count(Counter::ConnectionsReleased);
        match entry.listener.append(held) {
            Appended::Now => entry.listener.sk.wake(),
            Appended::Later => {
                self.waiting.store(true, Relaxed);
                self.counters.count(Counter::ConnectionsReleasedLate);
                self.put_off(Todo::Retry, Some(RETRY_MS));
            }
            Appended::Never(held) => {
                self.counters.count(Counter::ConnectionsOrphaned);
                self.discard(held);
            }
        }
    }

    /// BTCP says what shall become of a child.
    pub(super) fn decide(&self, tuple: &Tuple, fate: Fate) -> Result<u32> {
        let entry = self.lookup(tuple, None).ok_or(ENOENT)?;
        match entry.take(fate) {
            Taken::Never => return Err(ENOENT),
            Taken::Later => {}
            Taken::Now(held) => match fate {
                Fate::Release => self.release(&entry, held),
                Fate::Discard => {
                    self.withheld.remove(&entry);
                    self.counters.count(Counter::ConnectionsDiscarded);
                    self.discard(held);
                }
                Fate::Answer(answer) => {
                    self.withheld.remove(&entry);
                    return self.answer(held, answer);
                }
            },
        }
        Ok(0)
    }
}
