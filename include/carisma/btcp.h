/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What carisma_btcp offers to carisma_utcp. The functions are written in Rust
 * and exported by rust/btcp/exports.c.
 */
#ifndef _CARISMA_BTCP_H
#define _CARISMA_BTCP_H

#include <linux/types.h>

/* The version of this interface that the loaded carisma_btcp speaks. */
u32 carisma_btcp_abi(void);

#endif
