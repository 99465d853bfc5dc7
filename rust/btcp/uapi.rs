// SPDX-License-Identifier: GPL-2.0

//! The constants of the netlink family, generated from `include/uapi/linux/carisma.yaml`.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    non_camel_case_types,
    non_upper_case_globals,
    clippy::missing_docs_in_private_items
)]

include!(concat!(
    env!("CARISMA_OBJ"),
    "/rust/bindings/uapi_generated.rs"
));
