// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints of carisma_btcp, and the two functions by which Rust comes to
 * them (rust/net/trace.rs).
 */

#include <linux/string.h>

#define CREATE_TRACE_POINTS
#include "carisma_trace.h"

/* Whether anybody listens to any of them: not one branch is taken if not. */
bool carisma_trace_is_on(void)
{
	return trace_flow_begin_enabled() || trace_flow_handed_off_enabled() ||
	       trace_flow_closed_enabled() || trace_flow_reset_enabled() ||
	       trace_flow_end_enabled() || trace_head_decided_enabled() ||
	       trace_replay_step_enabled() || trace_record_sent_enabled() ||
	       trace_record_unsent_enabled() || trace_record_received_enabled() ||
	       trace_peer_up_enabled() || trace_peer_down_enabled();
}

void carisma_trace(const struct net *net, enum carisma_event_kind kind,
		   const struct carisma_event *event)
{
	switch (kind) {
	case CARISMA_FLOW_BEGIN:
		return trace_flow_begin(net, event);
	case CARISMA_FLOW_HANDED_OFF:
		return trace_flow_handed_off(net, event);
	case CARISMA_FLOW_CLOSED:
		return trace_flow_closed(net, event);
	case CARISMA_FLOW_RESET:
		return trace_flow_reset(net, event);
	case CARISMA_FLOW_END:
		return trace_flow_end(net, event);
	case CARISMA_HEAD_DECIDED:
		return trace_head_decided(net, event);
	case CARISMA_REPLAY_STEP:
		return trace_replay_step(net, event);
	case CARISMA_RECORD_SENT:
		return trace_record_sent(net, event);
	case CARISMA_RECORD_UNSENT:
		return trace_record_unsent(net, event);
	case CARISMA_RECORD_RECEIVED:
		return trace_record_received(net, event);
	case CARISMA_TRACE_PEER_UP:
		return trace_peer_up(net, event);
	case CARISMA_TRACE_PEER_DOWN:
		return trace_peer_down(net, event);
	}
}
