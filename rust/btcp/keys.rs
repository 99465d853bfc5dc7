// SPDX-License-Identifier: GPL-2.0

//! The keys of the cluster: what the nodes' control connections are signed with, and checked.
//!
//! They are only kept here, for UTCP, which is told all of them whenever one changes. Nobody else is
//! ever told more than their numbers. What SYN cookies are made with follows from them.

use crate::{
    refused::Refused,
    uapi, //
};
use carisma_core::{
    auth::{
        Key as _,
        SECRET_LEN, //
    },
    cookie, //
};
use carisma_net::{
    hmac::{
        self,
        Secret, //
    },
    new_published,
    published::Published,
    siphash::SipHash,
};
use kernel::{
    prelude::*,
    sync::{
        rcu,
        Arc, //
    },
};

/// Keys of a namespace.
const KEYS_MAX: usize = uapi::CARISMA_KEYS_MAX as usize;
/// A key as UTCP is told of it.
const TOLD_LEN: usize = 1 + SECRET_LEN;

// A text names the limit.
const _: () = assert!(KEYS_MAX == 4);

/// A key.
struct Key {
    id: u8,
    secret: Secret<SECRET_LEN>,
}

/// All keys; the first is the one to sign with.
type List = KVec<Arc<Key>>;

/// What cookies are made with: one secret for each key, in their order, and one of this node's own.
type Secrets = KVec<SipHash>;

/// The keys of a namespace.
#[pin_data]
pub(crate) struct Keys {
    #[pin]
    list: Published<Secrets, List>,
    own: SipHash,
}

impl Keys {
    /// There is none: nothing is signed. Errors: `ENOMEM`.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        let own = SipHash::random();
        try_pin_init!(Self {
            list <- new_published!(
                KBox::new(secrets(&KVec::new(), own)?, GFP_KERNEL)?,
                KVec::new(),
                "carisma_keys"
            ),
            own,
        }? Error)
    }

    /// What cookies may have been made with; the first is what they are made with now: by the key to
    /// sign with, so that the cluster's other nodes know them, or if there is none by what only this node
    /// knows. Any context.
    pub(crate) fn cookies<'a>(&'a self, rcu: &'a rcu::Guard) -> &'a [SipHash] {
        self.list.read(rcu)
    }

    /// Whether other nodes know the cookies of this one. Any context.
    pub(crate) fn are_shared(&self, rcu: &rcu::Guard) -> bool {
        // The last one is this node's own.
        self.cookies(rcu).len() > 1
    }

    /// Adds a key, to sign with or only to check. Process context, as all of these. `tell` is told of
    /// the keys as they then are; if it fails nothing changes.
    pub(crate) fn set(
        &self,
        id: u8,
        secret: Secret<SECRET_LEN>,
        signs: bool,
        tell: impl Fn(&[u8]) -> Result,
    ) -> Result<(), Refused> {
        let key = Arc::new(Key { id, secret }, GFP_KERNEL)?;
        self.change(tell, |list| {
            if place(list, id).is_ok() {
                return Err(Refused::KeyExists);
            }
            if list.len() >= KEYS_MAX {
                return Err(Refused::KeysFull);
            }
            if list.is_empty() && !signs {
                return Err(Refused::FirstKey);
            }
            list.push(key, GFP_KERNEL)?;
            if signs {
                list.rotate_right(1);
            }
            Ok(())
        })
    }

    /// Signs with another key.
    pub(crate) fn sign_with(&self, id: u8, tell: impl Fn(&[u8]) -> Result) -> Result<(), Refused> {
        self.change(tell, |list| {
            let place = place(list, id)?;
            if let Some(until) = list.get_mut(..=place) {
                until.rotate_right(1);
            }
            Ok(())
        })
    }

    /// Deletes a key. The one to sign with goes last, and not as long as one is `needed`.
    pub(crate) fn del(
        &self,
        id: u8,
        needed: bool,
        tell: impl Fn(&[u8]) -> Result,
    ) -> Result<(), Refused> {
        self.change(tell, |list| {
            let place = place(list, id)?;
            if place == 0 && list.len() > 1 {
                return Err(Refused::KeySigns);
            }
            if place == 0 && needed {
                return Err(Refused::KeyNeeded);
            }
            drop(list.remove(place));
            Ok(())
        })
    }

    /// Tells all keys.
    pub(crate) fn tell(&self, tell: impl Fn(&[u8]) -> Result) -> Result {
        told(&self.list.write(), tell)
    }

    /// Calls `f` with the number of each key, and whether it is the one to sign with.
    pub(crate) fn for_each(&self, mut f: impl FnMut(u8, bool) -> Result) -> Result {
        let list = self.list.write();
        list.iter()
            .enumerate()
            .try_for_each(|(place, key)| f(key.id, place == 0))
    }

    fn change(
        &self,
        tell: impl Fn(&[u8]) -> Result,
        edit: impl FnOnce(&mut List) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut list = self.list.write();
        let mut new = KVec::with_capacity(KEYS_MAX, GFP_KERNEL)?;
        for key in list.iter() {
            new.push(key.clone(), GFP_KERNEL)?;
        }
        edit(&mut new)?;
        let secrets = KBox::new(secrets(&new, self.own)?, GFP_KERNEL)?;
        told(&new, tell)?;
        *list = new;
        list.replace(secrets);
        Ok(())
    }
}

/// What these keys have cookies made with, and what does without any.
fn secrets(list: &List, own: SipHash) -> Result<Secrets> {
    let mut secrets = KVec::with_capacity(KEYS_MAX + 1, GFP_KERNEL)?;
    for key in list {
        let whole = hmac::Key::new(&key.secret)?.tag(&[cookie::LABEL]);
        if let Some(secret) = whole.first_chunk() {
            secrets.push(SipHash::new(secret), GFP_KERNEL)?;
        }
    }
    secrets.push(own, GFP_KERNEL)?;
    Ok(secrets)
}

/// The place of a key.
fn place(list: &List, id: u8) -> Result<usize, Refused> {
    let place = list.iter().position(|key| key.id == id);
    place.ok_or(Refused::NoKey)
}

/// Tells these keys.
fn told(list: &List, tell: impl Fn(&[u8]) -> Result) -> Result {
    let mut bytes = Secret::<{ KEYS_MAX * TOLD_LEN }>::zeroed()?;
    let mut len = 0;
    for (room, key) in bytes.chunks_exact_mut(TOLD_LEN).zip(list) {
        if let Some((id, secret)) = room.split_first_mut() {
            *id = key.id;
            secret.copy_from_slice(key.secret.as_slice());
        }
        len += TOLD_LEN;
    }
    tell(bytes.get(..len).unwrap_or(&[]))
}
