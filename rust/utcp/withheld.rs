// SPDX-License-Identifier: GPL-2.0

//! A child that is withheld from `accept()`, and what has become of it.

use crate::utcp::{
    listener::Listener,
    Ns, //
};
use carisma_core::answer::Answer;
use carisma_net::{
    listener::Held,
    lock::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    slab::{
        Cache,
        Opened, //
    },
    sock::Sock,
    table::{
        Entry,
        Node,
        Value, //
    },
};
use core::mem::replace;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// What BTCP wants done with a child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Append it to the accept queue.
    Release,
    /// Free it.
    Discard,
    /// Answer it, and close it.
    Answer(Answer),
}

/// How far a child has come.
enum Phase {
    /// BTCP is being asked whether to withhold it.
    Asked,
    /// It is withheld. TCP itself still works on its request.
    Unsettled(Held),
    /// It is withheld.
    Settled(Held),
    /// It is in other hands.
    Gone,
}

/// What is known of a child.
struct State {
    phase: Phase,
    /// What BTCP has said already, before it could be done.
    fate: Option<Fate>,
}

/// What came of an attempt to take a child.
pub(crate) enum Taken {
    /// Here it is.
    Now(Held),
    /// It was noted, and will be done when TCP has let go of the request.
    Later,
    /// Somebody else has it.
    Never,
}

/// The memory for withheld children.
pub(crate) type Memory = Opened<Node<Withheld>>;

/// Where withheld children are noted.
pub(crate) static MEMORY: Cache<Node<Withheld>> = Cache::new();

/// A withheld child, in the table of its namespace.
#[pin_data]
pub(crate) struct Withheld {
    /// Its listener.
    pub(crate) listener: Arc<Listener>,
    /// The address of its socket, to compare only.
    child: usize,
    #[pin]
    state: SpinLockBh<State>,
}

impl Value for Withheld {
    type Owner = Ns;

    fn cache() -> &'static Cache<Node<Self>> {
        &MEMORY
    }

    /// The timer is never armed: how long a child waits is BTCP's business.
    fn expired(_entry: &Entry<Self>, _owner: &Ns) {}
}

/// What a socket is compared by.
fn address(sk: &Sock) -> usize {
    sk.as_ptr() as usize
}

impl Withheld {
    /// A child that BTCP is about to be asked for.
    pub(crate) fn new(listener: Arc<Listener>, child: &Sock) -> impl PinInit<Self, Error> {
        let child = address(child);
        try_pin_init!(Self {
            listener,
            child,
            state <- new_spinlock_bh!(
                State {
                    phase: Phase::Asked,
                    fate: None,
                },
                "carisma_withheld"
            ),
        }? Error)
    }

    /// Whether it is this socket that is withheld.
    pub(crate) fn is_of(&self, sk: &Sock) -> bool {
        self.child == address(sk)
    }

    /// BTCP said to withhold it, and so it is. Gives it back if it is to be released already;
    /// `Some(Discard)` and nothing if it is to be discarded.
    pub(crate) fn hold(&self, held: Held) -> Result<(), (Held, Fate)> {
        let mut state = self.state.lock();
        match state.fate {
            None => {
                state.phase = Phase::Unsettled(held);
                Ok(())
            }
            Some(fate) => {
                state.phase = Phase::Gone;
                Err((held, fate))
            }
        }
    }

    /// TCP has let go of the request; what is to be done now.
    pub(crate) fn settle(&self) -> Option<Held> {
        let mut state = self.state.lock();
        match (replace(&mut state.phase, Phase::Gone), state.fate) {
            (Phase::Unsettled(held), Some(Fate::Release)) => Some(held),
            (Phase::Unsettled(held), _) => {
                state.phase = Phase::Settled(held);
                None
            }
            (phase, _) => {
                state.phase = phase;
                None
            }
        }
    }

    /// Takes the child, to do with it what BTCP says.
    pub(crate) fn take(&self, fate: Fate) -> Taken {
        let mut state = self.state.lock();
        match replace(&mut state.phase, Phase::Gone) {
            Phase::Gone => Taken::Never,
            Phase::Settled(held) => Taken::Now(held),
            // What frees or answers the child waits for its lock, and so for TCP.
            Phase::Unsettled(held) if fate != Fate::Release => Taken::Now(held),
            phase => {
                state.phase = phase;
                state.fate = Some(fate);
                Taken::Later
            }
        }
    }

    /// Takes the child if it is withheld, settled or not: then, whoever does not wait for TCP by
    /// himself must call [`Sock::barrier`].
    pub(crate) fn take_anyhow(&self) -> Option<(Held, bool)> {
        let mut state = self.state.lock();
        match replace(&mut state.phase, Phase::Gone) {
            Phase::Settled(held) => Some((held, true)),
            Phase::Unsettled(held) => Some((held, false)),
            phase => {
                state.phase = phase;
                None
            }
        }
    }
}
