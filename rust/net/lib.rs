// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the kernel's network stack, for what the `kernel` crate lacks.
//!
//! Only this crate and its [`bindings`] know the kernel's C types.

pub mod adopt;
pub mod below;
pub mod bindings;
pub mod bytes;
pub mod connection;
pub mod genl;
pub mod hmac;
pub mod ksock;
pub mod kthread;
pub mod link;
pub mod listener;
pub mod lock;
pub mod netfilter;
pub mod percpu;
pub mod pernet;
mod presence;
pub mod published;
pub mod random;
pub mod route;
pub mod siphash;
pub mod skb;
pub mod slab;
pub mod sock;
pub mod sysfs;
pub mod table;
pub mod trace;
pub mod tracepoint;
pub mod tunnel;
pub mod ulp;
pub mod work;
