/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Macros that bindgen cannot evaluate, as constants that it can. In Rust they
 * lose the prefix.
 */
#ifndef _CARISMA_CONSTANTS_H
#define _CARISMA_CONSTANTS_H

#include <linux/gfp.h>

static const gfp_t CARISMA_CONST_GFP_ATOMIC = GFP_ATOMIC;
static const gfp_t CARISMA_CONST_GFP_KERNEL = GFP_KERNEL;

#endif
