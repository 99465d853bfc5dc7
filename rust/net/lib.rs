// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the kernel's network stack, for what the `kernel` crate lacks.
//!
//! Only this crate and its [`bindings`] know the kernel's C types.

pub mod bindings;
pub mod connection;
pub mod genl;
pub mod link;
pub mod lock;
pub mod netfilter;
pub mod percpu;
pub mod pernet;
pub mod published;
pub mod skb;
pub mod sysfs;
pub mod table;
