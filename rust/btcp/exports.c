// SPDX-License-Identifier: GPL-2.0
/*
 * The symbols of carisma_btcp that carisma_utcp may use. Rust defines them;
 * only C can export them under a name that does not change with the compiler.
 */

#include <linux/export.h>

#include "carisma_msg.h"

EXPORT_SYMBOL_GPL(carisma_btcp_attach);
EXPORT_SYMBOL_GPL(carisma_btcp_detach);
EXPORT_SYMBOL_GPL(carisma_btcp_put);
