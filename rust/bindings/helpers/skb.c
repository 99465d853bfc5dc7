// SPDX-License-Identifier: GPL-2.0
/* Socket buffers: what is inline, and the way a segment is given to TCP. All run under RCU with bottom halves off. */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <linux/if_vlan.h>
#include <linux/netfilter.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <net/dst.h>
#include <net/gso.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/route.h>
#include <net/tcp.h>

#include "carisma_net.h"

/*
 * The first look at a packet is all that those get which are of no service: what it consists of is inlined.
 *
 * The ports and flags of the segment that has its TCP header at byte "at"; false if that is not whole.
 */
static __always_inline bool carisma_peek_tcp(const struct sk_buff *skb, unsigned int at,
					     struct carisma_peek *peek)
{
	struct tcphdr buf;
	const struct tcphdr *tcp = skb_header_pointer(skb, at, sizeof(buf), &buf);

	if (!tcp)
		return false;
	peek->sport = tcp->source;
	peek->dport = tcp->dest;
	peek->flags = ((const __u8 *)tcp)[13];
	return true;
}

bool carisma_helper_skb_peek_behind(const struct sk_buff *skb, unsigned int at, struct carisma_peek *peek)
{
	return carisma_peek_tcp(skb, at, peek);
}

/*
 * The length and the payload's protocol of the IP header at byte "at", and its addresses, if "peek" is
 * not NULL; false if that is a fragment of IPv4's (carisma_helper_gather()).
 */
static __always_inline bool carisma_peek_ip(const struct sk_buff *skb, unsigned int at, unsigned int *len,
					    __u8 *protocol, struct carisma_peek *peek)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} buf;
	const struct iphdr *ip = skb_header_pointer(skb, at, sizeof(buf.v4), &buf);
	const struct ipv6hdr *ip6;

	if (!ip)
		return false;
	if (ip->version == 6) {
		ip6 = skb_header_pointer(skb, at, sizeof(*ip6), &buf);
		if (!ip6)
			return false;
		*len = sizeof(*ip6);
		*protocol = ip6->nexthdr;
		if (peek) {
			memcpy(peek->saddr, &ip6->saddr, sizeof(peek->saddr));
			memcpy(peek->daddr, &ip6->daddr, sizeof(peek->daddr));
			return carisma_set_link(peek->saddr, carisma_skb_link(skb)) &&
			       carisma_set_link(peek->daddr, carisma_skb_link(skb));
		}
		return true;
	}
	if (ip->version != 4 || ip->ihl < 5 || ip_is_fragment(ip))
		return false;
	*len = ip->ihl * 4;
	*protocol = ip->protocol;
	if (peek) {
		carisma_set_in4(peek->saddr, ip->saddr);
		carisma_set_in4(peek->daddr, ip->daddr);
	}
	return true;
}

/* What is known of what is behind an IP header of that length, which is none of the payloads looked for. */
static enum carisma_seen carisma_seen_behind(unsigned int len, __u8 protocol)
{
	switch (protocol) {
	case NEXTHDR_HOP:
	case NEXTHDR_ROUTING:
	case NEXTHDR_FRAGMENT:
	case NEXTHDR_DEST:
		return len == sizeof(struct ipv6hdr) ? CARISMA_SEEN_EXTENSIONS : CARISMA_SEEN_OTHER;
	default:
		return CARISMA_SEEN_OTHER;
	}
}

/*
 * What there is at byte "at", and whose, if it is a TCP segment. Behind extension headers of IPv6 it
 * takes carisma_helper_skb_peek_behind().
 */
enum carisma_seen carisma_helper_skb_peek_tcp(const struct sk_buff *skb, unsigned int at,
					      struct carisma_peek *peek)
{
	unsigned int len;
	__u8 protocol;

	if (!carisma_peek_ip(skb, at, &len, &protocol, peek))
		return CARISMA_SEEN_OTHER;
	if (protocol == IPPROTO_TCP)
		return carisma_peek_tcp(skb, at + len, peek) ? CARISMA_SEEN_IT : CARISMA_SEEN_OTHER;
	return carisma_seen_behind(len, protocol);
}

/* Whether there is an ICMP message about another packet at byte "at". */
enum carisma_seen carisma_helper_skb_peek_icmp_error(const struct sk_buff *skb, unsigned int at)
{
	unsigned int len;
	const __u8 *type;
	__u8 protocol, buf;

	if (!carisma_peek_ip(skb, at, &len, &protocol, NULL))
		return CARISMA_SEEN_OTHER;
	if (protocol != IPPROTO_ICMP && protocol != IPPROTO_ICMPV6)
		return carisma_seen_behind(len, protocol);
	type = skb_header_pointer(skb, at + len, sizeof(buf), &buf);
	if (type && (protocol == IPPROTO_ICMP ? icmp_is_err(*type) : icmpv6_is_err(*type)))
		return CARISMA_SEEN_IT;
	return CARISMA_SEEN_OTHER;
}

/* Whether the checksum of what is behind an IP header of "ip" bytes is right. At PRE_ROUTING. */
bool carisma_helper_skb_is_summed(struct sk_buff *skb, unsigned int ip, __u8 protocol)
{
	return !nf_checksum(skb, NF_INET_PRE_ROUTING, ip, protocol,
			    carisma_skb_is_v6(skb) ? AF_INET6 : AF_INET);
}

/*
 * How a packet came to PRE_ROUTING. What br_netfilter shows of a bridge's, and IP then gets, does not pass
 * it once more (ip_sabotage_in()): it is taken here, as having come by the bridge and not by its port.
 */
enum carisma_arrival carisma_helper_skb_arrival(struct sk_buff *skb)
{
#if IS_ENABLED(CONFIG_BRIDGE_NETFILTER)
	const struct nf_bridge_info *bridge = nf_bridge_info_get(skb);

	if (bridge) {
		if (skb->pkt_type != PACKET_HOST || bridge->pkt_otherhost ||
		    bridge->orig_proto != BRNF_PROTO_UNCHANGED || skb_vlan_tag_present(skb))
			return CARISMA_ARRIVAL_PASSING;
		skb->skb_iif = skb->dev->ifindex;
		return CARISMA_ARRIVAL_BRIDGED;
	}
#endif
	return CARISMA_ARRIVAL_RECEIVED;
}

/*
 * Put a packet together of which this is a fragment, if it is one of IPv4 and may be of interest. False if
 * others are missing: the kernel has it then. At PRE_ROUTING, as net/ipv4/netfilter/nf_defrag_ipv4.c does it.
 */
bool carisma_helper_gather(struct net *net, struct sk_buff *skb)
{
	const struct iphdr *ip = ip_hdr(skb);
	u32 user = nf_bridge_in_prerouting(skb) ? IP_DEFRAG_CONNTRACK_BRIDGE_IN : IP_DEFRAG_CONNTRACK_IN;

	if (ip->version != 4 || !ip_is_fragment(ip))
		return true;
	switch (ip->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_ICMP:
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		break;
	default:
		return true;
	}
	if (ip_defrag(net, skb, user))
		return false;
	skb->ignore_df = 1;
	return true;
}

/* Whether a packet that came in is this node's own. */
bool carisma_helper_skb_is_looped(const struct sk_buff *skb)
{
	return skb->dev && (skb->dev->flags & IFF_LOOPBACK);
}

bool carisma_helper_pskb_may_pull(struct sk_buff *skb, unsigned int len)
{
	return pskb_may_pull(skb, len);
}

/* The linear bytes of a packet that shares them with no other. */
unsigned int carisma_helper_skb_private_headlen(const struct sk_buff *skb)
{
	return skb_cloned(skb) ? 0 : skb_headlen(skb);
}

void carisma_helper_skb_drop(struct sk_buff *skb)
{
	kfree_skb(skb);
}

bool carisma_helper_skb_csum_partial(const struct sk_buff *skb)
{
	return skb->ip_summed == CHECKSUM_PARTIAL;
}

/* A bare packet of len bytes, data at the IP header, with room for any link header before it. */
struct sk_buff *carisma_helper_skb_new(unsigned int len)
{
	struct sk_buff *skb = alloc_skb(MAX_HEADER + len, GFP_ATOMIC);

	if (!skb)
		return NULL;
	skb_reserve(skb, MAX_HEADER);
	skb_reset_network_header(skb);
	skb_put_zero(skb, len);
	skb->ip_summed = CHECKSUM_NONE;
	skb->pkt_type = PACKET_HOST;
	return skb;
}

/* It has come, or is to go, by the device of this number. */
void carisma_helper_skb_set_link(struct sk_buff *skb, int link)
{
	skb->skb_iif = link;
}

/* The number of the device that it came by, or will go by; 0 if that is not known. */
int carisma_helper_skb_link(const struct sk_buff *skb)
{
	return carisma_skb_link(skb);
}

/* Its IP header was written: what is behind that begins at "offset". */
void carisma_helper_skb_set_transport(struct sk_buff *skb, unsigned int offset)
{
	skb->protocol = htons(carisma_skb_is_v6(skb) ? ETH_P_IPV6 : ETH_P_IP);
	skb_set_transport_header(skb, offset);
}

/*
 * Make a segment from PRE_ROUTING fit to wait: what is valid only under the RCU lock of its arrival
 * is dropped. Its device is found again by skb_iif, which receive set.
 */
void carisma_helper_skb_park(struct sk_buff *skb)
{
	carisma_skb_let_go(skb);
	skb_dst_drop(skb);
	skb->dev = NULL;
}

/*
 * Prepare a segment to come in. A made one comes by the device that leads to the client, which is
 * what rp_filter expects.
 */
static int carisma_skb_arrive(struct net *net, struct sk_buff *skb)
{
	if (!skb->dev)
		skb->dev = dev_get_by_index_rcu(net, skb->skb_iif);
	if (!skb->dev) {
		struct dst_entry *dst = carisma_route(net, skb, true, skb->mark);

		if (IS_ERR(dst))
			return PTR_ERR(dst);
		skb->dev = dst->dev;
		skb->skb_iif = skb->dev->ifindex;
		dst_release(dst);
	}
	skb_reset_mac_header(skb);
	skb_reset_mac_len(skb);
	if (carisma_skb_is_v6(skb)) {
		/* As ip6_rcv_core(), which has looked at hop-by-hop options. */
		memset(IP6CB(skb), 0, sizeof(*IP6CB(skb)));
		IP6CB(skb)->iif = skb->skb_iif;
		IP6CB(skb)->nhoff = ipv6_hdr(skb)->nexthdr == NEXTHDR_HOP ?
				    sizeof(struct ipv6hdr) : offsetof(struct ipv6hdr, nexthdr);
	} else {
		memset(IPCB(skb), 0, sizeof(*IPCB(skb)));
		IPCB(skb)->iif = skb->skb_iif;
	}
	return 0;
}

/* Whether the way of a packet that came in leads to this node, which it is then told of. */
static bool carisma_route_in(struct sk_buff *skb)
{
	if (carisma_skb_is_v6(skb)) {
		ip6_route_input(skb);
		return !skb_dst(skb)->error && (dst_rt6_info(skb_dst(skb))->rt6i_flags & RTF_LOCAL);
	} else {
		const struct iphdr *ip = ip_hdr(skb);

		return !ip_route_input_noref(skb, ip->daddr, ip->saddr, ip4h_dscp(ip), skb->dev) &&
		       skb_rtable(skb)->rt_type == RTN_LOCAL;
	}
}

/*
 * The way on from PRE_ROUTING, in short: without IP's options and VRFs. All that was received may have come by
 * bridges, so that nothing has brought the real one along.
 */
int carisma_helper_go_on(struct net *net, struct sock *sk, struct sk_buff *skb)
{
	if (carisma_route_in(skb))
		return READ_ONCE(skb_dst(skb)->input)(skb);
	kfree_skb(skb);
	return NET_RX_DROP;
}

/* The hooks that a packet of this family passes there. */
static const struct nf_hook_entries *carisma_hooks(const struct net *net, bool v6, enum nf_inet_hooks where)
{
	return v6 ? rcu_dereference(net->nf.hooks_ipv6[where]) : rcu_dereference(net->nf.hooks_ipv4[where]);
}

/*
 * Show a segment that is about to come in to the hooks that "where" has, those behind "own" only, if
 * that is one of them. False if they have kept or dropped it; what is kept goes on by okfn.
 */
static bool carisma_hooks_accept(struct net *net, struct sk_buff *skb, enum nf_inet_hooks where, nf_hookfn *own, int (*okfn)(struct net *, struct sock *, struct sk_buff *))
{
	const bool v6 = carisma_skb_is_v6(skb);
	const struct nf_hook_entries *entries = carisma_hooks(net, v6, where);
	struct nf_hook_state state;
	unsigned int i, from = 0;

	if (!entries)
		return true;
	for (i = 0; i < entries->num_hook_entries; i++)
		if (entries->hooks[i].hook == own)
			from = i + 1;
	nf_hook_state_init(&state, where, v6 ? NFPROTO_IPV6 : NFPROTO_IPV4, skb->dev, NULL, NULL, net, okfn);
	return nf_hook_slow(skb, &state, entries, from) == 1;
}

/*
 * Give the segment to this node's TCP as though it had just come in: through the rest of
 * PRE_ROUTING, behind our own hook (so that conntrack sees one whole connection), and on. Consumes
 * the skb.
 */
int carisma_helper_inject(struct net *net, struct sk_buff *skb, nf_hookfn *own, int (*okfn)(struct net *, struct sock *, struct sk_buff *))
{
	int err = carisma_skb_arrive(net, skb);

	if (err) {
		kfree_skb(skb);
		return err;
	}
	if (carisma_hooks_accept(net, skb, NF_INET_PRE_ROUTING, own, okfn))
		okfn(net, NULL, skb);
	return 0;
}

/* Leave of a segment its headers alone, of "ip" and "tcp" bytes and private, and sum them up anew. */
bool carisma_helper_skb_cut(struct sk_buff *skb, unsigned int ip, unsigned int tcp)
{
	struct tcphdr *th;
	__wsum sum;

	if (pskb_trim(skb, ip + tcp))
		return false;
	th = (struct tcphdr *)(skb_network_header(skb) + ip);
	th->check = 0;
	sum = csum_partial(th, tcp, 0);
	if (carisma_skb_is_v6(skb)) {
		struct ipv6hdr *iph = ipv6_hdr(skb);

		iph->payload_len = htons(ip + tcp - sizeof(*iph));
		th->check = csum_ipv6_magic(&iph->saddr, &iph->daddr, tcp, IPPROTO_TCP, sum);
	} else {
		struct iphdr *iph = ip_hdr(skb);

		iph->tot_len = htons(ip + tcp);
		ip_send_check(iph);
		th->check = csum_tcpudp_magic(iph->saddr, iph->daddr, tcp, IPPROTO_TCP, sum);
	}
	skb_gso_reset(skb);
	skb->ip_summed = CHECKSUM_NONE;
	return true;
}

/* Whether the socket has this connection, bound to this device, or to none. */
static __always_inline bool carisma_matches(struct net *net, const struct sock *sk, const struct carisma_tuple *tuple, int dif)
{
	const __portpair ports = INET_COMBINED_PORTS(carisma_port(tuple->client_port),
						     ntohs(carisma_port(tuple->local_port)));
	struct in6_addr client = carisma_in6(tuple->client), local = carisma_in6(tuple->local);
	const int link = carisma_take_link(&client);
	INET_ADDR_COOKIE(cookie, client.s6_addr32[3], local.s6_addr32[3]);

	if (carisma_is_v4(tuple->client))
		return inet_match(net, sk, cookie, ports, dif, 0);
	return (!link || link == dif) && inet6_match(net, sk, &client, &local, ports, dif, 0);
}

/*
 * The socket that has this connection, whichever device it is bound to, if to any; without the device,
 * TCP's own look-up finds none that is.
 */
static struct sock *carisma_established(struct net *net, const struct carisma_tuple *tuple)
{
	struct in6_addr client = carisma_in6(tuple->client), local = carisma_in6(tuple->local);
	struct inet_hashinfo *table = net->ipv4.tcp_death_row.hashinfo;
	const u16 local_port = ntohs(carisma_port(tuple->local_port));
	const __be16 client_port = carisma_port(tuple->client_port);
	struct hlist_nulls_node *node;
	unsigned int hash;
	struct sock *sk;

	carisma_take_link(&client);
	if (carisma_is_v4(tuple->client))
		hash = inet_ehashfn(net, local.s6_addr32[3], local_port, client.s6_addr32[3], client_port);
	else
		hash = inet6_ehashfn(net, &local, local_port, &client, client_port);
	rcu_read_lock();
again:
	sk_nulls_for_each_rcu(sk, node, &inet_ehash_bucket(table, hash)->chain) {
		if (sk->sk_hash != hash || !carisma_matches(net, sk, tuple, READ_ONCE(sk->sk_bound_dev_if)))
			continue;
		if (!refcount_inc_not_zero(&sk->sk_refcnt))
			goto none;
		/* It may have become another one meanwhile. */
		if (carisma_matches(net, sk, tuple, READ_ONCE(sk->sk_bound_dev_if)))
			goto found;
		sock_gen_put(sk);
		goto again;
	}
	/* One on the way was moved to another chain: this is the end of that. */
	if (get_nulls_value(node) != (hash & table->ehash_mask))
		goto again;
none:
	sk = NULL;
found:
	rcu_read_unlock();
	return sk;
}

/* Whether an established, not a TIME_WAIT, socket has this connection. */
bool carisma_helper_connection_is_live(struct net *net, const struct carisma_tuple *tuple)
{
	struct sock *sk = carisma_established(net, tuple);
	bool live;

	if (!sk)
		return false;
	live = sk->sk_state != TCP_TIME_WAIT;
	sock_gen_put(sk);
	return live;
}

/* Whether any socket has this connection. */
bool carisma_helper_connection_is_taken(struct net *net, const struct carisma_tuple *tuple)
{
	struct sock *sk = carisma_established(net, tuple);

	if (sk)
		sock_gen_put(sk);
	return sk;
}

/* Whether a TIME_WAIT socket has this connection. */
bool carisma_helper_connection_is_in_time_wait(struct net *net, const struct carisma_tuple *tuple)
{
	struct sock *sk = carisma_established(net, tuple);
	bool waits;

	if (!sk)
		return false;
	waits = sk->sk_state == TCP_TIME_WAIT;
	sock_gen_put(sk);
	return waits;
}

/* The number that TCP expects next of the client; false without an established socket. */
bool carisma_helper_connection_expects(struct net *net, const struct carisma_tuple *tuple, u32 *seq)
{
	struct sock *sk = carisma_established(net, tuple);
	bool found;

	if (!sk)
		return false;
	found = sk_fullsock(sk);
	if (found)
		*seq = READ_ONCE(tcp_sk(sk)->rcv_nxt);
	sock_gen_put(sk);
	return found;
}

/*
 * Let TCP wait with the acknowledgement of what comes next on this connection for an answer that it may
 * be sent with, as long as it always waits for one.
 */
void carisma_helper_connection_await_answer(struct net *net, const struct carisma_tuple *tuple)
{
	struct sock *sk = carisma_established(net, tuple);

	if (!sk)
		return;
	if (sk_fullsock(sk)) {
		bh_lock_sock(sk);
		if (!sock_owned_by_user(sk))
			inet_csk_enter_pingpong_mode(sk);
		bh_unlock_sock(sk);
	}
	sock_gen_put(sk);
}

/*
 * Let the bare ACK of this connection's handshake be enough for a socket, although its listener has
 * TCP_DEFER_ACCEPT: as if the SYN-ACK had been repeated for as long as that waits. The request's
 * timer is kept from counting, too, meanwhile.
 */
void carisma_helper_connection_undefer(struct net *net, const struct carisma_tuple *tuple)
{
	struct sock *sk = carisma_established(net, tuple);
	struct request_sock_queue *queue;
	struct request_sock *req;
	u8 defer;

	if (!sk)
		return;
	if (sk->sk_state == TCP_NEW_SYN_RECV) {
		req = inet_reqsk(sk);
		queue = &inet_csk(req->rsk_listener)->icsk_accept_queue;
		defer = READ_ONCE(queue->rskq_defer_accept);
		if (req->num_timeout < defer && timer_delete(&req->rsk_timer)) {
			/* As in reqsk_timer_handler(). */
			if (!req->num_timeout)
				atomic_dec(&queue->young);
			req->num_timeout = defer;
			add_timer(&req->rsk_timer);
		}
	}
	sock_gen_put(sk);
}

/*
 * Have TCP measure the round trip of this connection's handshake as though what ends it had come so many
 * microseconds before it will.
 */
void carisma_helper_connection_answered(struct net *net, const struct carisma_tuple *tuple, u32 before_us)
{
	struct sock *sk = carisma_established(net, tuple);

	if (!sk)
		return;
	/* Nobody else writes it once a SYN-ACK was sent. */
	if (sk->sk_state == TCP_NEW_SYN_RECV && tcp_rsk(inet_reqsk(sk))->snt_synack)
		tcp_rsk(inet_reqsk(sk))->snt_synack += before_us;
	sock_gen_put(sk);
}

/* End the socket of this connection as `ss -K` does: RST to the peer, ECONNABORTED to the server. Process context. */
int carisma_helper_connection_abort(struct net *net, const struct carisma_tuple *tuple)
{
	struct sock *sk = carisma_established(net, tuple);
	int err;

	if (!sk)
		return -ENOENT;
	err = tcp_abort(sk, ECONNABORTED);
	sock_gen_put(sk);
	return err;
}
