/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The messages between BTCP, below TCP, and UTCP, above it.
 *
 * As the STREAMS modules of the paper did (section 4), the two modules speak by messages alone: one
 * put procedure each way, and no pointer of the one is ever kept by the other. The kinds follow the
 * paper's TPI primitives.
 */
#ifndef CARISMA_MSG_H
#define CARISMA_MSG_H

#include <linux/types.h>

struct module;
struct net;

#define CARISMA_NAME_LEN	16	/* bytes of a node's name, padded with zeroes */
#define CARISMA_SECRET_LEN	32	/* bytes of a cluster key */

/* Changes whenever this file does; both modules must come from one build. */
#define CARISMA_MSG_ABI		5

/*
 * A connection, as the TCP of this node sees it. IPv4 addresses are v4-mapped (RFC 4291, section
 * 2.5.5.2), ports are big-endian.
 */
struct carisma_tuple {
	__u8	client[16];
	__u8	local[16];
	__u8	client_port[2];
	__u8	local_port[2];
};

enum carisma_msg_kind {
	/*
	 * UTCP to BTCP.
	 *
	 * CONN_ASK: TCP made a child for the tuple. Softirq, with the child's lock held. Answers 0 to let
	 * it pass; else CONN_IND follows as soon as what it may be answered with is expected.
	 * CONN_IND: TCP made a child for the tuple. Softirq, with the child's lock held. Answers 0
	 * to let it pass; else it is to be withheld from accept(), and the answer less 1 is the
	 * round trip to the client in milliseconds, or 0 if it is not known.
	 * DISCON_IND: a socket on a service's port went to CLOSE; value is 1 if a TIME_WAIT takes
	 * its place. Any context, with the socket's lock held.
	 * RECORD_IND: a whole record of the peer "node" (len bytes at data). Process context.
	 * PEER_UP, PEER_DOWN: the control connection to "node"; value is the epoch of the peer's
	 * module. Process context.
	 * PEER_REFUSED: there is no control connection to "node"; value is 1 more than why (a
	 * carisma_core::auth::Trouble), 0 if that is not known. Process context.
	 * CONFIG_REQ: tell the namespace's configuration again. It comes up as KEYS, NODE_ADD
	 * and SERVICE_ADD before this returns; what UTCP knows already may be among it. Process context,
	 * may sleep.
	 * COUNT_IND: something happened that UTCP counts; value is the number of the counter
	 * (rust/core/src/counters.rs). Any context.
	 * LEAVE_REQ: UTCP is about to leave the namespace. Connections that are not decided come up
	 * as CONN_RES before this returns, and none is withheld any more. Process context.
	 */
	CARISMA_CONN_IND = 1,
	CARISMA_DISCON_IND,
	CARISMA_RECORD_IND,
	CARISMA_PEER_UP,
	CARISMA_PEER_DOWN,
	CARISMA_CONFIG_REQ,
	CARISMA_COUNT_IND,
	CARISMA_LEAVE_REQ,
	CARISMA_PEER_REFUSED,
	CARISMA_CONN_ASK,

	/*
	 * BTCP to UTCP.
	 *
	 * CONN_RES: append the withheld child to the accept queue. Softirq or process context.
	 * -ENOENT if there is none.
	 * CONN_DISCARD: free the withheld child, which has just been reset. Same context.
	 * CONN_ANSWER: answer the client with the HTTP status "value" (a carisma_core::answer), and
	 * close; TCP is about to get what the client sent. Same context. -ENOENT if there is no
	 * child; -ENOBUFS at the bound, and then it is freed, with a reset.
	 * RECORD_REQ: copy the record and queue it for "node". Softirq. -ENOTCONN if the peer is
	 * down, -ENOBUFS at the bound.
	 * SERVICE_ADD, SERVICE_DEL: connections to tuple.local and tuple.local_port are, or are no
	 * more, BTCP's business. Process context, may sleep. A deletion, of a node as well, needs no
	 * memory, and succeeds if there is no such thing.
	 * NODE_ADD, NODE_DEL: node (from 1), its name, tuple.local and tuple.local_port of its
	 * control connection; value is 1 for this node itself. Process context, may sleep. An
	 * addition before the first KEYS is -ENOTCONN: it comes again after CONFIG_REQ.
	 * KEYS: all keys of the cluster, each a number (1 byte) and CARISMA_SECRET_LEN bytes. This
	 * node signs with the first, if there is one. Process context, may sleep.
	 */
	CARISMA_CONN_RES = 32,
	CARISMA_CONN_DISCARD,
	CARISMA_RECORD_REQ,
	CARISMA_SERVICE_ADD,
	CARISMA_SERVICE_DEL,
	CARISMA_NODE_ADD,
	CARISMA_NODE_DEL,
	CARISMA_CONN_ANSWER,
	CARISMA_KEYS,
};

struct carisma_msg {
	__u32			kind;	/* enum carisma_msg_kind */
	__u32			node;	/* index of a node, from 1 */
	struct carisma_tuple	tuple;
	__u32			len;	/* bytes at data */
	__u64			value;
	const __u8		*data;
	char			name[CARISMA_NAME_LEN];	/* padded with zeroes */
};

/* What UTCP hands to BTCP when it attaches. */
struct carisma_upper {
	__u32		abi;		/* CARISMA_MSG_ABI */
	__u32		msg_size;	/* sizeof(struct carisma_msg) */
	struct module	*owner;
	int		(*put)(struct net *net, const struct carisma_msg *msg);
};

/*
 * Exported by BTCP. After attach() UTCP is told of changes, and asks for what there was before by
 * CONFIG_REQ, once for each namespace. After detach() no put into UTCP is under way nor will be.
 */
int carisma_btcp_attach(const struct carisma_upper *upper);
void carisma_btcp_detach(void);
int carisma_btcp_put(struct net *net, const struct carisma_msg *msg);

#endif /* CARISMA_MSG_H */
