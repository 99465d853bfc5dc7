// SPDX-License-Identifier: GPL-2.0

//! CARISMA below TCP: the module root of `carisma_btcp`.

use kernel::prelude::*;

module! {
    type: Btcp,
    name: "carisma_btcp",
    authors: ["The CARISMA developers"],
    description: "CARISMA below TCP: connection handoff by packet",
    license: "GPL",
}

/// What lives as long as the module does.
struct Btcp;

impl kernel::Module for Btcp {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("loaded\n");
        Ok(Self)
    }
}

impl Drop for Btcp {
    fn drop(&mut self) {
        pr_info!("unloaded\n");
    }
}

/// The version of the interface between the two modules.
#[no_mangle]
pub extern "C" fn carisma_btcp_abi() -> u32 {
    carisma_core::MODULE_ABI
}
