/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The steps of a connection as tracepoints: /sys/kernel/tracing/events/carisma. docs/observability.md
 * says when each of them comes.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM carisma

#if !defined(CARISMA_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define CARISMA_TRACE_H

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tracepoint.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>

#include "carisma_net.h"

#ifndef CARISMA_TRACE_ONCE
#define CARISMA_TRACE_ONCE
/* Writes one end of a connection as %pISpc reads it. */
static inline void carisma_trace_end(void *to, const __u8 *addr, const __u8 *port)
{
	struct sockaddr_in6 end = { .sin6_family = AF_INET6 };
	struct sockaddr_in *v4 = (struct sockaddr_in *)&end;

	memcpy(&end.sin6_addr, addr, sizeof(end.sin6_addr));
	memcpy(&end.sin6_port, port, sizeof(end.sin6_port));
	if (ipv6_addr_v4mapped(&end.sin6_addr)) {
		v4->sin_family = AF_INET;
		v4->sin_addr.s_addr = end.sin6_addr.s6_addr32[3];
		/* The port is at the same place in both. */
	}
	memcpy(to, &end, sizeof(end));
}
#endif

#define CARISMA_ENDS							\
		__field(	unsigned int,	netns)			\
		__array(	__u8,		client,	sizeof(struct sockaddr_in6)) \
		__array(	__u8,		local,	sizeof(struct sockaddr_in6))

#define CARISMA_ENDS_ASSIGN						\
		__entry->netns = net->ns.inum;				\
		carisma_trace_end(__entry->client, event->tuple.client,	\
				  event->tuple.client_port);		\
		carisma_trace_end(__entry->local, event->tuple.local,	\
				  event->tuple.local_port)

#define CARISMA_HANDOFF							\
		__field(	__u64,		id)			\
		__array(	char,		node,	CARISMA_NAME_LEN)

#define CARISMA_HANDOFF_ASSIGN						\
		__entry->id = event->id;				\
		strscpy(__entry->node, event->node, sizeof(__entry->node))

#define carisma_show_role(role)						\
	__print_symbolic(role, { 0, "front-end" }, { 1, "back-end" })

DECLARE_EVENT_CLASS(carisma_flow,
	TP_PROTO(const struct net *net, const struct carisma_event *event),
	TP_ARGS(net, event),
	TP_STRUCT__entry(
		CARISMA_ENDS
		CARISMA_HANDOFF
		__field(	__u32,		role)
	),
	TP_fast_assign(
		CARISMA_ENDS_ASSIGN;
		CARISMA_HANDOFF_ASSIGN;
		__entry->role = event->role;
	),
	TP_printk("netns=%u role=%s client=%pISpc local=%pISpc node=%s id=%llu",
		  __entry->netns, carisma_show_role(__entry->role), __entry->client,
		  __entry->local, __entry->node, __entry->id)
);

#define CARISMA_FLOW_EVENT(name)					\
	DEFINE_EVENT(carisma_flow, name,				\
		TP_PROTO(const struct net *net, const struct carisma_event *event), \
		TP_ARGS(net, event))

CARISMA_FLOW_EVENT(flow_begin);
CARISMA_FLOW_EVENT(flow_handed_off);
CARISMA_FLOW_EVENT(flow_closed);
CARISMA_FLOW_EVENT(flow_reset);

TRACE_EVENT(flow_end,
	TP_PROTO(const struct net *net, const struct carisma_event *event),
	TP_ARGS(net, event),
	TP_STRUCT__entry(
		CARISMA_ENDS
	),
	TP_fast_assign(
		CARISMA_ENDS_ASSIGN;
	),
	TP_printk("netns=%u client=%pISpc local=%pISpc", __entry->netns, __entry->client,
		  __entry->local)
);

DECLARE_EVENT_CLASS(carisma_step,
	TP_PROTO(const struct net *net, const struct carisma_event *event),
	TP_ARGS(net, event),
	TP_STRUCT__entry(
		CARISMA_ENDS
		CARISMA_HANDOFF
		__string(	outcome,	event->what)
	),
	TP_fast_assign(
		CARISMA_ENDS_ASSIGN;
		CARISMA_HANDOFF_ASSIGN;
		__assign_str(outcome);
	),
	TP_printk("netns=%u client=%pISpc local=%pISpc node=%s id=%llu outcome=%s",
		  __entry->netns, __entry->client, __entry->local, __entry->node, __entry->id,
		  __get_str(outcome))
);

#define CARISMA_STEP_EVENT(name)					\
	DEFINE_EVENT(carisma_step, name,				\
		TP_PROTO(const struct net *net, const struct carisma_event *event), \
		TP_ARGS(net, event))

CARISMA_STEP_EVENT(head_decided);
CARISMA_STEP_EVENT(replay_step);

DECLARE_EVENT_CLASS(carisma_record,
	TP_PROTO(const struct net *net, const struct carisma_event *event),
	TP_ARGS(net, event),
	TP_STRUCT__entry(
		CARISMA_ENDS
		CARISMA_HANDOFF
		__field(	__u32,		bytes)
		__string(	kind,		event->what)
		__string(	reason,		event->why)
	),
	TP_fast_assign(
		CARISMA_ENDS_ASSIGN;
		CARISMA_HANDOFF_ASSIGN;
		__entry->bytes = event->value;
		__assign_str(kind);
		__assign_str(reason);
	),
	TP_printk("netns=%u kind=%s client=%pISpc local=%pISpc node=%s id=%llu bytes=%u reason=%s",
		  __entry->netns, __get_str(kind), __entry->client, __entry->local,
		  __entry->node, __entry->id, __entry->bytes, __get_str(reason))
);

#define CARISMA_RECORD_EVENT(name)					\
	DEFINE_EVENT(carisma_record, name,				\
		TP_PROTO(const struct net *net, const struct carisma_event *event), \
		TP_ARGS(net, event))

CARISMA_RECORD_EVENT(record_sent);
CARISMA_RECORD_EVENT(record_unsent);
CARISMA_RECORD_EVENT(record_received);

DECLARE_EVENT_CLASS(carisma_peer,
	TP_PROTO(const struct net *net, const struct carisma_event *event),
	TP_ARGS(net, event),
	TP_STRUCT__entry(
		__field(	unsigned int,	netns)
		__field(	__u64,		epoch)
		__array(	char,		node,	CARISMA_NAME_LEN)
	),
	TP_fast_assign(
		__entry->netns = net->ns.inum;
		__entry->epoch = event->value;
		strscpy(__entry->node, event->node, sizeof(__entry->node));
	),
	TP_printk("netns=%u node=%s epoch=%llu", __entry->netns, __entry->node, __entry->epoch)
);

#define CARISMA_PEER_EVENT(name)					\
	DEFINE_EVENT(carisma_peer, name,				\
		TP_PROTO(const struct net *net, const struct carisma_event *event), \
		TP_ARGS(net, event))

CARISMA_PEER_EVENT(peer_up);
CARISMA_PEER_EVENT(peer_down);

#endif /* CARISMA_TRACE_H */

/* The kernel's own include path of trace headers is not ours: it is found in ours. */
#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE carisma_trace
#include <trace/define_trace.h>
