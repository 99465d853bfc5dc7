// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's macros and inline functions as functions that Rust can call.
 * In Rust they lose the prefix. A line or a few of C each: logic belongs to
 * Rust.
 */

#include "bindings_helper.h"

#include "helpers/addr.c" /* before what has to do with addresses */
#include "helpers/crypto.c"
#include "helpers/genl.c"
#include "helpers/ksock.c"
#include "helpers/listener.c"
#include "helpers/netns.c"
#include "helpers/percpu.c"
#include "helpers/route.c"
#include "helpers/xmit.c" /* behind route.c */
#include "helpers/skb.c" /* behind route.c */
#include "helpers/adopt.c" /* behind skb.c */
#include "helpers/slab.c"
#include "helpers/sock.c"
#include "helpers/table.c"
#include "helpers/task.c"
#include "helpers/tunnel.c" /* behind xmit.c */
