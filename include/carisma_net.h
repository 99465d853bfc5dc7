/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Kernel-side types that C helpers and Rust share; bindgen reads this header.
 */
#ifndef CARISMA_NET_H
#define CARISMA_NET_H

#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/rhashtable-types.h>
#include <linux/timer.h>

#include "carisma_msg.h"

/* The head of every table entry (rust/net/table.rs); the value follows it in the same allocation. */
struct carisma_node {
	struct rhash_head	head;
	union {
		struct timer_list	timer;
		struct rcu_head		rcu;	/* once nobody has a reference: the timer has one while armed */
	} ending;
	void			*net;
	refcount_t		refs;
	struct carisma_tuple	key;
};

/* What the first look at a packet says of it. */
enum carisma_seen {
	CARISMA_SEEN_OTHER,
	CARISMA_SEEN_IT,		/* what was asked for */
	CARISMA_SEEN_EXTENSIONS,	/* headers of IPv6 extensions stand before whatever it is */
};

/* How a packet comes to PRE_ROUTING. */
enum carisma_arrival {
	CARISMA_ARRIVAL_RECEIVED,	/* as IP has received it */
	CARISMA_ARRIVAL_BRIDGED,	/* a bridge is about to give it to IP, and has it look at rules before */
	CARISMA_ARRIVAL_PASSING,	/* it is for others on the bridge, or not known not to be */
};

/*
 * The addresses (IPv4 as v4-mapped), ports and flags of a TCP segment, for the first compare of the
 * hooks.
 */
struct carisma_peek {
	__u8	saddr[16];
	__u8	daddr[16];
	__be16	sport;
	__be16	dport;
	__u8	flags;
};

struct inet_connection_sock_af_ops;
struct sock;
struct tcp_ulp_ops;

/* What of a listener is replaced (rust/net/listener.rs). */
struct carisma_sock_ops {
	const struct inet_connection_sock_af_ops	*af_ops;
	void						(*data_ready)(struct sock *sk);
	const struct tcp_ulp_ops			*ulp;
};

/* What TCP is told of a connection besides an ACK (rust/net/adopt.rs). */
struct carisma_adoption {
	__u16	mss;		/* what the client takes */
	__u16	window;		/* what the server's SYN-ACK offered */
	__u8	snd_wscale;	/* of the client's windows */
	__u8	rcv_wscale;	/* of the server's */
	bool	wscale_ok;
	bool	sack_ok;
	bool	tstamp_ok;
	bool	ecn_ok;
	bool	withheld;	/* only if the child is withheld */
	__u32	ts_recent;	/* the client's newest TSval */
	__u32	ts_now;		/* the server's clock */
};

/* Why TCP was not given a connection in this way. */
enum carisma_obstacle {
	CARISMA_OBSTACLE_NONE,
	CARISMA_OBSTACLE_SYNCOOKIES,
	CARISMA_OBSTACLE_CONNTRACK,
	CARISMA_OBSTACLE_OPTIONS,
	CARISMA_OBSTACLE_TUPLE,
	CARISMA_OBSTACLE_LISTENER,
	CARISMA_OBSTACLE_WINDOW,
	CARISMA_OBSTACLE_FILTER,
	CARISMA_OBSTACLE_OTHER,
};

/* What a tracepoint of carisma_btcp tells of (rust/net/trace.rs). */
enum carisma_event_kind {
	CARISMA_FLOW_BEGIN,
	CARISMA_FLOW_HANDED_OFF,
	CARISMA_FLOW_CLOSED,
	CARISMA_FLOW_RESET,
	CARISMA_FLOW_END,
	CARISMA_HEAD_DECIDED,
	CARISMA_REPLAY_STEP,
	CARISMA_RECORD_SENT,
	CARISMA_RECORD_UNSENT,
	CARISMA_RECORD_RECEIVED,
	CARISMA_TRACE_PEER_UP,
	CARISMA_TRACE_PEER_DOWN,
};

struct carisma_event {
	struct carisma_tuple	tuple;
	__u32			role;	/* CARISMA_ROLE_... */
	__u64			id;	/* of the handoff */
	__u64			value;	/* bytes of a record, or the epoch of a peer */
	const char		*what;	/* outcome of a step, or kind of a record */
	const char		*why;	/* reason of a REJECT */
	char			node[CARISMA_NAME_LEN];	/* padded with zeroes */
};

struct net;

/* Only in carisma_btcp. */
bool carisma_trace_is_on(void);
void carisma_trace(const struct net *net, enum carisma_event_kind kind,
		   const struct carisma_event *event);

#endif /* CARISMA_NET_H */
