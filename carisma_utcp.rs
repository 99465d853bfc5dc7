// SPDX-License-Identifier: GPL-2.0

//! CARISMA above TCP: the module root of `carisma_utcp`.

use kernel::prelude::*;

module! {
    type: Utcp,
    name: "carisma_utcp",
    authors: ["The CARISMA developers"],
    description: "CARISMA above TCP: connections withheld from accept()",
    license: "GPL",
}

/// What lives as long as the module does.
struct Utcp;

impl kernel::Module for Utcp {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("loaded\n");
        Ok(Self)
    }
}

impl Drop for Utcp {
    fn drop(&mut self) {
        pr_info!("unloaded\n");
    }
}
