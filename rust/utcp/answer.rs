// SPDX-License-Identifier: GPL-2.0

//! Connections that no server is to see, and that are answered here.
//!
//! A withheld child becomes a socket of the kernel's own, and is sent a short response and FIN, for
//! which TCP answers. What the client still sends is read and dropped for a while: it would be
//! answered with RST otherwise, which may reach the client before it has read the response (RFC
//! 9112, section 9.6).

use crate::utcp::counters::{
    Counter,
    Counters, //
};
use carisma_core::answer::Answer;
use carisma_net::{
    connection::now_ms,
    ksock::Socket,
    listener::{
        Held,
        HeldQueue, //
    },
    lock::{
        new_spinlock_bh,
        SpinLockBh, //
    },
};
use core::mem::take;
use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

/// Connections of a namespace that may be answered at a time.
const OPEN_MAX: usize = 1024;
/// How long what a client still sends is dropped, in milliseconds.
const LINGER_MS: u32 = 5_000;
/// How often it is, in milliseconds.
pub(crate) const POLL_MS: u32 = 50;
/// How much at a time, in bytes.
const DRAIN: usize = 1 << 20;

/// Children that wait for process context.
struct Waiting {
    /// For each of [`Answer::ALL`].
    children: [HeldQueue; Answer::ALL.len()],
    /// How many there are, together with those that are open.
    count: usize,
}

/// A connection that was answered.
struct Open {
    sock: Socket,
    since: u32,
}

/// The connections of a namespace that are answered.
///
/// Lock order: `open`, `waiting`.
#[pin_data]
pub(crate) struct Answers {
    #[pin]
    waiting: SpinLockBh<Waiting>,
    #[pin]
    open: Mutex<KVec<Open>>,
}

impl Answers {
    /// None.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            waiting <- new_spinlock_bh!(
                Waiting {
                    children: [const { HeldQueue::new() }; Answer::ALL.len()],
                    count: 0,
                },
                "carisma_answers"
            ),
            open <- new_mutex!(KVec::new()),
        })
    }

    /// Leaves a child to [`Answers::run`]. Gives it back at the bound. Any context.
    pub(crate) fn push(&self, held: Held, answer: Answer) -> Result<(), Held> {
        let mut waiting = self.waiting.lock();
        let count = waiting.count.wrapping_add(1);
        let place = Answer::ALL.iter().position(|it| *it == answer);
        match place.and_then(|place| waiting.children.get_mut(place)) {
            Some(queue) if count <= OPEN_MAX => {
                queue.push(held);
                waiting.count = count;
                Ok(())
            }
            _ => Err(held),
        }
    }

    fn pop(&self) -> Option<(Held, Answer)> {
        let mut waiting = self.waiting.lock();
        let children = waiting.children.iter_mut().zip(Answer::ALL);
        children
            .filter_map(|(queue, answer)| Some((queue.pop()?, answer)))
            .next()
    }

    fn done(&self) {
        let mut waiting = self.waiting.lock();
        waiting.count = waiting.count.saturating_sub(1);
    }

    /// Answers those that wait, and drops what the others have sent; whether there are any left.
    /// Process context.
    pub(crate) fn run(&self, counters: &Counters) -> bool {
        let mut open = self.open.lock();
        while let Some((held, answer)) = self.pop() {
            match respond(held, answer) {
                Ok(sock) => {
                    counters.count(Counter::ConnectionsAnswered);
                    let since = now_ms();
                    // Without memory it is reset, perhaps before the response is read.
                    if open.push(Open { sock, since }, GFP_KERNEL).is_err() {
                        self.done();
                    }
                }
                Err(held) => {
                    counters.count(Counter::ConnectionsAnsweredLimit);
                    self.done();
                    held.discard();
                }
            }
        }
        let mut i = 0;
        while let Some(it) = open.get(i) {
            let waits = now_ms().wrapping_sub(it.since) < LINGER_MS;
            if it.sock.drain(DRAIN) && waits {
                i = i.wrapping_add(1);
            } else if let Ok(it) = open.remove(i) {
                it.sock.close();
                self.done();
            }
        }
        !open.is_empty()
    }

    /// Answers those that wait, and leaves all to TCP. Process context.
    pub(crate) fn finish(&self, counters: &Counters) {
        self.run(counters);
        for it in take(&mut *self.open.lock()) {
            it.sock.close();
            self.done();
        }
    }
}

/// Accepts a child, and sends it all that it will get.
fn respond(held: Held, answer: Answer) -> Result<Socket, Held> {
    let sock = Socket::accepted(held)?;
    // There is room for the first bytes of a connection; if it has ended, nobody waits for them.
    let _ = sock.send(answer.response());
    sock.shutdown();
    Ok(sock)
}
