// SPDX-License-Identifier: GPL-2.0

//! Tables of connections: a resizable hash table of counted entries, looked up under RCU.
//!
//! Every entry carries a timer, since whatever the modules remember of a connection ends at some
//! time. An entry lives as long as somebody holds an [`Entry`]; the table holds one while the entry
//! is in it, and its timer one while armed. The last one to let go frees it after a grace period,
//! so that look-ups need no lock.
//!
//! C headers: [`include/linux/rhashtable.h`](srctree/include/linux/rhashtable.h),
//! [`include/linux/timer.h`](srctree/include/linux/timer.h)

use crate::{
    bindings,
    pernet::{Net, NetRef, PerNet},
    presence::Presence,
    slab::Cache,
};
use carisma_core::tuple::{Addr, Tuple};
use core::{marker::PhantomData, ops::Deref, ptr::NonNull};
use kernel::{
    container_of,
    error::to_result,
    prelude::*,
    sync::rcu,
    types::Opaque, //
};

/// What is kept in a [`Table`].
pub trait Value: Send + Sync + Sized + 'static {
    /// The state that the table is a part of.
    type Owner: PerNet;

    /// Where its entries are made.
    fn cache() -> &'static Cache<Node<Self>>;

    /// The entry's timer has run out. Softirq context; the timer may be armed again, or may have been
    /// meanwhile ([`Entry::is_armed`]).
    fn expired(entry: &Entry<Self>, owner: &Self::Owner);
}

/// What an [`Entry`] points to: the head that C links, then the value.
#[repr(C)]
#[pin_data]
pub struct Node<T> {
    #[pin]
    head: Opaque<bindings::carisma_node>,
    #[pin]
    value: T,
}

/// A counted reference to an entry.
///
/// # Invariants
///
/// `0` points to a live [`Node`] made by [`Entry::new`], and owns one of its references.
pub struct Entry<T: Value>(NonNull<Node<T>>);

// SAFETY: The node is shared by counted reference, and `T` itself is `Send` and `Sync`.
unsafe impl<T: Value> Send for Entry<T> {}
// SAFETY: As above; only shared references to the value are given out.
unsafe impl<T: Value> Sync for Entry<T> {}

impl<T: Value> Entry<T> {
    /// How many bytes one takes.
    pub const SIZE: usize = size_of::<Node<T>>();

    /// Makes an entry that is in no table yet.
    ///
    /// Any context. Errors: `ENOMEM`, and those of `value`.
    pub fn new(key: &Tuple, value: impl PinInit<T, Error>) -> Result<Self> {
        let key: *const bindings::carisma_tuple = core::ptr::from_ref(key).cast();
        // SAFETY: The closure initialises the head whole, or is not run.
        let head = unsafe {
            pin_init::pin_init_from_closure(|slot: *mut Opaque<bindings::carisma_node>| {
                let raw = Opaque::cast_into(slot);
                raw.write(core::mem::zeroed());
                bindings::node_init(raw, Some(timer_expired::<T>));
                // The layouts of the two tuple types are asserted to be equal in `link.rs`.
                (*raw).key = *key;
                Ok::<(), Error>(())
            })
        };
        let node = try_pin_init!(Node {
            head <- head,
            value <- value,
        }? Error);
        // INVARIANT: The reference is the one that `carisma_helper_node_init` set.
        T::cache().pin_init(node).map(Self)
    }

    fn head(&self) -> *mut bindings::carisma_node {
        // SAFETY: By the type invariant the node is live.
        unsafe { self.0.as_ref() }.head.get()
    }

    /// The connection.
    pub fn key(&self) -> &Tuple {
        // SAFETY: The key is never written after `new`, and the tuple types have one layout
        // (`link.rs`).
        unsafe { &*(&raw const (*self.head()).key).cast::<Tuple>() }
    }

    /// Lets the timer expire `ms` milliseconds from now, instead of when it would have. Any
    /// context.
    ///
    /// Must not race with the entry's removal: callers decide both under the value's own lock.
    pub fn arm(&self, ms: u32) {
        let head = self.head();
        // SAFETY: The node is live. The timer gets a reference of its own, unless it was armed and
        // so has one.
        unsafe {
            bindings::node_get(head);
            if bindings::mod_timer_ms(&raw mut (*head).ending.timer, ms) != 0 {
                drop(Self(self.0));
            }
        }
    }

    /// Stops the timer, but does not wait for an expiry that is under way. Any context.
    pub fn disarm(&self) {
        // SAFETY: The node is live.
        if unsafe { bindings::timer_delete(&raw mut (*self.head()).ending.timer) } != 0 {
            // INVARIANT: A timer that was armed had a reference, which is given up here.
            drop(Self(self.0));
        }
    }

    /// Whether the timer is to expire. If so in an expiry, under the value's own lock, that has been
    /// overtaken. Any context.
    pub fn is_armed(&self) -> bool {
        // SAFETY: The node is live.
        unsafe { bindings::timer_is_armed(&raw const (*self.head()).ending.timer) }
    }

    /// Whether both are the same entry, not merely equal ones.
    pub fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T: Value> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the node is live.
        &unsafe { self.0.as_ref() }.value
    }
}

impl<T: Value> Clone for Entry<T> {
    fn clone(&self) -> Self {
        // SAFETY: The node is live: `self` has a reference.
        unsafe { bindings::node_get(self.head()) };
        // INVARIANT: The reference was just taken.
        Self(self.0)
    }
}

impl<T: Value> Drop for Entry<T> {
    fn drop(&mut self) {
        let head = self.head();
        // SAFETY: `self` has a reference, which ends here. When it was the last one, look-ups may
        // still read the node until a grace period has passed; then nobody can.
        unsafe {
            if bindings::node_put(head) {
                bindings::call_rcu(&raw mut (*head).ending.rcu, Some(free::<T>));
            }
        }
    }
}

/// # Safety
///
/// Called by RCU only, with the `rcu` field of a [`Node<T>`] that nobody can reach any more.
unsafe extern "C" fn free<T: Value>(rcu: *mut bindings::callback_head) {
    // SAFETY: `rcu` is inside a `carisma_node`, which is the first field of a `Node<T>` that
    // `Entry::new` has made.
    unsafe {
        let head = container_of!(rcu, bindings::carisma_node, ending.rcu);
        T::cache().free(NonNull::new_unchecked(head.cast::<Node<T>>()));
    }
}

/// # Safety
///
/// Called by the timer core only, with the `timer` field of a [`Node<T>`] for which the timer owns
/// a reference.
unsafe extern "C" fn timer_expired<T: Value>(timer: *mut bindings::timer_list) {
    // SAFETY: As above. The reference of the timer, which is no longer armed, passes to `entry`.
    let entry = unsafe {
        let head = container_of!(timer, bindings::carisma_node, ending.timer);
        Entry::<T>(NonNull::new_unchecked(head.cast::<Node<T>>()))
    };
    // SAFETY: Entries are armed when they are in a table, which was made for this namespace and is
    // cleared, with a grace period after, before the namespace's state goes.
    let net = unsafe { (*entry.head()).net };
    if net.is_null() {
        return;
    }
    // SAFETY: As above.
    if let Some(owner) = T::Owner::of(unsafe { Net::from_raw(net.cast()) }) {
        T::expired(&entry, owner);
    }
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another entry has this key.
    Exists,
    /// The table is at its limit.
    Full,
    /// No memory to grow.
    NoMemory,
}

/// A table of `T` by connection.
///
/// It must be empty when it is dropped: see [`Table::clear`].
#[pin_data(PinnedDrop)]
pub struct Table<T: Value> {
    #[pin]
    raw: Opaque<bindings::rhashtable>,
    /// Whose entries there may be, once the table is open.
    presence: Presence,
    net: *mut bindings::net,
    _value: PhantomData<Entry<T>>,
}

// SAFETY: rhashtable locks by itself; entries are `Send` and `Sync`.
unsafe impl<T: Value> Send for Table<T> {}
// SAFETY: As above.
unsafe impl<T: Value> Sync for Table<T> {}

impl<T: Value> Table<T> {
    /// Makes an empty table, a part of `T::Owner`'s state of this namespace. Process context.
    pub fn new(net: &NetRef) -> impl PinInit<Self, Error> {
        let net = net.as_ptr();
        try_pin_init!(Self {
            net,
            presence: Presence::new(),
            // SAFETY: `raw` is valid for writing; an rhashtable that failed to be initialised needs
            // no clean-up.
            raw <- Opaque::try_ffi_init(|raw| to_result(unsafe {
                bindings::table_init(raw)
            })),
            _value: PhantomData,
        }? Error)
    }

    /// Makes room for what is kept besides the entries. Process context. Errors: `ENOMEM`.
    pub fn open(&self) -> Result {
        Ok(self.presence.open()?)
    }

    /// Whether there may be an entry of a client's. Any context.
    #[inline(always)]
    pub fn may_have(&self, addr: &Addr, port: u16) -> bool {
        self.presence.has(addr, port)
    }

    fn count(&self, key: &Tuple, more: bool) {
        self.presence
            .count(&key.client, key.client_port.get(), more);
    }

    /// The entry of `key`. Any context.
    pub fn lookup(&self, key: &Tuple) -> Option<Entry<T>> {
        self.lookup_under(key, &rcu::read_lock())
    }

    /// The same, for who has the RCU lock anyway.
    pub fn lookup_under(&self, key: &Tuple, _rcu: &rcu::Guard) -> Option<Entry<T>> {
        if !self.may_have(&key.client, key.client_port.get()) {
            return None;
        }
        // SAFETY: The table is initialised and RCU is read-locked. A node found so may be on its
        // way out, with no reference left: then it is as good as absent.
        unsafe {
            let head = bindings::table_lookup(self.raw.get(), core::ptr::from_ref(key).cast());
            if head.is_null() || !bindings::node_get_live(head) {
                return None;
            }
            // INVARIANT: The reference was just taken.
            Some(Entry(NonNull::new_unchecked(head.cast())))
        }
    }

    /// Puts the entry into the table, which is open, if there are fewer than `limit` (give or take what
    /// other CPUs put in at the same moment). Any context.
    pub fn insert(&self, entry: &Entry<T>, limit: usize) -> Result<(), Refused> {
        if self.len() >= limit {
            return Err(Refused::Full);
        }
        if !self.presence.is_open() {
            return Err(Refused::NoMemory);
        }
        let of_table = entry.clone();
        // Who finds it in the table finds it here.
        self.count(entry.key(), true);
        // SAFETY: The node is live, and nobody else knows it yet.
        unsafe { (*entry.head()).net = self.net.cast() };
        // SAFETY: The table is initialised, the node is live and in no table.
        let err = unsafe { bindings::table_insert(self.raw.get(), entry.head()) };
        if err == 0 {
            core::mem::forget(of_table);
            return Ok(());
        }
        self.count(entry.key(), false);
        match err == EEXIST.to_errno() {
            true => Err(Refused::Exists),
            false => Err(Refused::NoMemory),
        }
    }

    /// Takes the entry out; whether it was in. Any context.
    pub fn remove(&self, entry: &Entry<T>) -> bool {
        // SAFETY: The table is initialised, the node is live.
        let removed = unsafe { bindings::table_remove(self.raw.get(), entry.head()) } == 0;
        if removed {
            self.count(entry.key(), false);
            // INVARIANT: This is the reference that the table had.
            drop(Entry(entry.0));
        }
        removed
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        // SAFETY: The table is initialised.
        unsafe { bindings::table_len(self.raw.get()) as usize }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `f` for every entry, perhaps twice for one when the table is being resized, under the
    /// RCU lock: `f` must not sleep. Process or softirq context.
    pub fn for_each(&self, mut f: impl FnMut(&Entry<T>)) {
        let mut iter = core::mem::MaybeUninit::<bindings::rhashtable_iter>::zeroed();
        let iter = iter.as_mut_ptr();
        // SAFETY: The table is initialised; the iterator is used as rhashtable.h says, from enter
        // to exit.
        unsafe {
            bindings::rhashtable_walk_enter(self.raw.get(), iter);
            // -EAGAIN here and below only says that the table is being resized.
            bindings::rhashtable_walk_start_check(iter);
            loop {
                let head: *mut bindings::carisma_node = bindings::rhashtable_walk_next(iter).cast();
                if head.is_null() {
                    break;
                }
                if (head as isize) < 0 && (head as isize) > -4096 {
                    continue;
                }
                if bindings::node_get_live(head) {
                    // INVARIANT: The reference was just taken.
                    f(&Entry(NonNull::new_unchecked(head.cast())));
                }
            }
            bindings::rhashtable_walk_stop(iter);
            bindings::rhashtable_walk_exit(iter);
        }
    }

    /// Begins a walk over the entries that can pause. Process context.
    pub fn walk(&self) -> Result<Walk<'_, T>> {
        let iter = KBox::new(Opaque::zeroed(), GFP_KERNEL)?;
        // SAFETY: The table is initialised, and lives as long as the walk. The iterator does not
        // move.
        unsafe { bindings::rhashtable_walk_enter(self.raw.get(), iter.get()) };
        // INVARIANT: It was just entered.
        Ok(Walk {
            iter,
            _table: PhantomData,
        })
    }

    /// Takes every entry out, stops its timer and gives it to `f`, which must not sleep. Process
    /// context.
    ///
    /// Nobody may put entries in any more. Expiries that are under way end before the next grace
    /// period does.
    pub fn clear(&self, mut f: impl FnMut(&Entry<T>)) {
        while !self.is_empty() {
            self.for_each(|entry| {
                if self.remove(entry) {
                    f(entry);
                    entry.disarm();
                }
            });
        }
    }
}

/// A walk over the entries of a table. What comes or goes meanwhile may be met or not, and an entry
/// twice when the table is resized.
///
/// # Invariants
///
/// The iterator is between `rhashtable_walk_enter()` and `rhashtable_walk_exit()`, and not started.
pub struct Walk<'a, T: Value> {
    iter: KBox<Opaque<bindings::rhashtable_iter>>,
    _table: PhantomData<&'a Table<T>>,
}

// SAFETY: The iterator is tied to no task, and locks what it shares with the table.
unsafe impl<T: Value> Send for Walk<'_, T> {}

impl<T: Value> Walk<'_, T> {
    /// Calls `f` for the entries from where the walk is, until one is refused: with that the walk
    /// goes on the next time. Answers that refusal. Under the RCU lock: `f` must not sleep. Process
    /// context.
    pub fn go_on(&mut self, mut f: impl FnMut(&Entry<T>) -> Result) -> Result {
        let iter = self.iter.get();
        // SAFETY: By the type invariant; it is used as rhashtable.h says, from start to stop.
        unsafe {
            // -EAGAIN here and below only says that the table is being resized.
            bindings::rhashtable_walk_start_check(iter);
            // The entry that was refused the last time, if it is still there.
            let mut head: *mut bindings::carisma_node = bindings::rhashtable_walk_peek(iter).cast();
            let mut result = Ok(());
            while !head.is_null() {
                let is_error = (head as isize) < 0 && (head as isize) > -4096;
                if !is_error && bindings::node_get_live(head) {
                    // INVARIANT: The reference was just taken.
                    result = f(&Entry(NonNull::new_unchecked(head.cast())));
                    if result.is_err() {
                        break;
                    }
                }
                head = bindings::rhashtable_walk_next(iter).cast();
            }
            bindings::rhashtable_walk_stop(iter);
            result
        }
    }
}

impl<T: Value> Drop for Walk<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::rhashtable_walk_exit(self.iter.get()) };
    }
}

#[pinned_drop]
impl<T: Value> PinnedDrop for Table<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Nobody else can reach the table, and it is not used again.
        unsafe { bindings::rhashtable_destroy(self.raw.get()) };
    }
}
