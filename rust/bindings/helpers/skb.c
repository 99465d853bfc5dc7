// SPDX-License-Identifier: GPL-2.0
/* Socket buffers: what is inline, and the ways a segment leaves us. All run under RCU with bottom halves off. */
#include <linux/icmp.h>
#include <linux/ip.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <net/dst.h>
#include <net/dst_cache.h>
#include <net/gso.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/route.h>
#include <net/tcp.h>

#include "carisma_net.h"

/* Whether this is an IPv4 TCP segment, and whose. A later fragment has no ports: it is not one. */
bool carisma_helper_skb_peek_tcp(const struct sk_buff *skb, struct carisma_peek *peek)
{
	const struct iphdr *ip = ip_hdr(skb);
	const struct tcphdr *tcp;
	struct tcphdr buf;

	if (ip->version != 4 || ip->protocol != IPPROTO_TCP || (ip->frag_off & htons(IP_OFFSET)))
		return false;
	tcp = skb_header_pointer(skb, skb_network_offset(skb) + ip->ihl * 4, sizeof(buf), &buf);
	if (!tcp)
		return false;
	peek->saddr = ip->saddr;
	peek->daddr = ip->daddr;
	peek->sport = tcp->source;
	peek->dport = tcp->dest;
	peek->flags = ((const __u8 *)tcp)[13];
	return true;
}

/* Whether this is an ICMP message about another packet. */
bool carisma_helper_skb_is_icmp_error(const struct sk_buff *skb)
{
	const struct iphdr *ip = ip_hdr(skb);
	const __u8 *type;
	__u8 buf;

	if (ip->version != 4 || ip->protocol != IPPROTO_ICMP)
		return false;
	type = skb_header_pointer(skb, skb_network_offset(skb) + ip->ihl * 4, sizeof(buf), &buf);
	return type && icmp_is_err(*type);
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

const unsigned char *carisma_helper_skb_linear_data(const struct sk_buff *skb)
{
	return skb->data;
}

unsigned int carisma_helper_skb_headlen(const struct sk_buff *skb)
{
	return skb_headlen(skb);
}

unsigned int carisma_helper_skb_len(const struct sk_buff *skb)
{
	return skb->len;
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

/* A bare IPv4 packet of len bytes, data at the IP header, with room for any link header before it. */
struct sk_buff *carisma_helper_skb_new(unsigned int len)
{
	struct sk_buff *skb = alloc_skb(MAX_HEADER + len, GFP_ATOMIC);

	if (!skb)
		return NULL;
	skb_reserve(skb, MAX_HEADER);
	skb_reset_network_header(skb);
	skb_put_zero(skb, len);
	skb->protocol = htons(ETH_P_IP);
	skb->ip_summed = CHECKSUM_NONE;
	skb->pkt_type = PACKET_HOST;
	return skb;
}

void carisma_helper_skb_set_transport(struct sk_buff *skb, unsigned int offset)
{
	skb_set_transport_header(skb, offset);
}

/*
 * Make a segment from PRE_ROUTING fit to wait: what is valid only under the RCU lock of its arrival
 * is dropped. Its device is found again by skb_iif, which receive set.
 */
void carisma_helper_skb_park(struct sk_buff *skb)
{
	skb_dst_drop(skb);
	skb->dev = NULL;
}

static struct rtable *carisma_route(struct net *net, const struct sk_buff *skb, __be32 saddr, __be32 daddr)
{
	struct flowi4 fl4 = {
		.daddr = daddr,
		.saddr = saddr,
		.flowi4_mark = skb->mark,
		.flowi4_flags = FLOWI_FLAG_ANYSRC,
		.flowi4_proto = ip_hdr(skb)->protocol,
	};

	return ip_route_output_key(net, &fl4);
}

/*
 * A route by which any packet goes to the node at "via" itself: the neighbour entry is that of "via",
 * not of the packet's destination, as IPVS and nf_dup_ipv4 have it. A gateway, and our own loopback,
 * would send the packet to its destination, that is, to us again.
 */
static struct rtable *carisma_route_direct(struct net *net, __be32 via)
{
	struct flowi4 fl4 = {
		.daddr = via,
		.flowi4_flags = FLOWI_FLAG_KNOWN_NH,
	};
	struct rtable *rt = ip_route_output_key(net, &fl4);

	if (!IS_ERR(rt) && (rt->rt_type != RTN_UNICAST || rt->rt_gw_family != AF_INET ||
			    rt->rt_gw4 != via || (rt->dst.dev->flags & IFF_LOOPBACK))) {
		ip_rt_put(rt);
		return ERR_PTR(-EHOSTUNREACH);
	}
	return rt;
}

/* Whether any packet can be sent to the node at "via" itself. */
bool carisma_helper_is_on_link(struct net *net, __be32 via)
{
	struct rtable *rt = carisma_route_direct(net, via);

	if (IS_ERR(rt))
		return false;
	ip_rt_put(rt);
	return true;
}

/* Whether packets to this address are this node's own. */
bool carisma_helper_is_local(struct net *net, __be32 addr)
{
	return inet_addr_type(net, addr) == RTN_LOCAL;
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
		struct rtable *rt = carisma_route(net, skb, 0, ip_hdr(skb)->saddr);

		if (IS_ERR(rt))
			return PTR_ERR(rt);
		skb->dev = rt->dst.dev;
		skb->skb_iif = skb->dev->ifindex;
		ip_rt_put(rt);
	}
	skb_reset_mac_header(skb);
	skb_reset_mac_len(skb);
	memset(IPCB(skb), 0, sizeof(*IPCB(skb)));
	IPCB(skb)->iif = skb->skb_iif;
	return 0;
}

/*
 * Show a segment that is about to come in to the hooks that "where" has, those behind "own" only, if
 * that is one of them. False if they have kept or dropped it; what is kept goes on by okfn.
 */
static bool carisma_hooks_accept(struct net *net, struct sk_buff *skb, enum nf_inet_hooks where, nf_hookfn *own, int (*okfn)(struct net *, struct sock *, struct sk_buff *))
{
	const struct nf_hook_entries *entries = rcu_dereference(net->nf.hooks_ipv4[where]);
	struct nf_hook_state state;
	unsigned int i, from = 0;

	if (!entries)
		return true;
	for (i = 0; i < entries->num_hook_entries; i++)
		if (entries->hooks[i].hook == own)
			from = i + 1;
	nf_hook_state_init(&state, where, NFPROTO_IPV4, skb->dev, NULL, NULL, net, okfn);
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
	struct iphdr *iph;

	if (pskb_trim(skb, ip + tcp))
		return false;
	iph = ip_hdr(skb);
	iph->tot_len = htons(ip + tcp);
	ip_send_check(iph);
	th = (struct tcphdr *)((u8 *)iph + ip);
	th->check = 0;
	th->check = csum_tcpudp_magic(iph->saddr, iph->daddr, tcp, IPPROTO_TCP, csum_partial(th, tcp, 0));
	skb_gso_reset(skb);
	skb->ip_summed = CHECKSUM_NONE;
	return true;
}

/*
 * Count the hop that forwarding is (RFC 1812, section 5.3.1). A segment whose last hop led to us is
 * where its sender wanted it, and goes on with that hop: no loop can come of it, as a back end does
 * not forward, and a router that gets it in its place counts the hop in earnest.
 */
void carisma_helper_hop(struct sk_buff *skb)
{
	struct iphdr *ip = ip_hdr(skb);

	if (ip->ttl > 1)
		ip_decrease_ttl(ip);
}

/* Whether IP would refuse to take this packet apart so that it fits (ip_finish_output()). */
static bool carisma_is_too_big(const struct sk_buff *skb, unsigned int mtu)
{
	if (!(ip_hdr(skb)->frag_off & htons(IP_DF)) || skb->ignore_df)
		return false;
	return skb_is_gso(skb) ? !skb_gso_validate_network_len(skb, mtu) : skb->len > mtu;
}

/*
 * Send a whole IPv4 packet by a route, of which the reference is given up. LOCAL_OUT is left out:
 * conntrack there has not seen what we hold or forward, and would call it invalid. Consumes the skb,
 * unless it is too big: then *mtu, else 0, is how big it may be.
 */
static int carisma_xmit(struct net *net, struct sk_buff *skb, struct rtable *rt, unsigned int *mtu)
{
	unsigned int max;

	*mtu = 0;
	if (IS_ERR(rt)) {
		kfree_skb(skb);
		return PTR_ERR(rt);
	}
	skb_dst_drop(skb);
	skb_dst_set(skb, &rt->dst);
	skb->dev = rt->dst.dev;
	skb_forward_csum(skb);
	skb_clear_tstamp(skb);
	memset(IPCB(skb), 0, sizeof(*IPCB(skb)));
	max = ip_skb_dst_mtu(NULL, skb);
	if (carisma_is_too_big(skb, max)) {
		*mtu = max;
		return -EMSGSIZE;
	}
	return dst_output(net, NULL, skb);
}

/* Send a whole IPv4 packet where its header says, as above. */
int carisma_helper_xmit(struct net *net, struct sk_buff *skb, unsigned int *mtu)
{
	const struct iphdr *ip = ip_hdr(skb);

	return carisma_xmit(net, skb, carisma_route(net, skb, ip->saddr, ip->daddr), mtu);
}

/*
 * Send a whole IPv4 packet to the node at "via" itself, whatever its header says. Such a route is
 * kept by nobody else: a cache, which has routes to "via" only, or is NULL, spares making one for each
 * packet. As above.
 */
int carisma_helper_xmit_direct(struct net *net, struct sk_buff *skb, __be32 via, struct dst_cache *cache,
			       unsigned int *mtu)
{
	struct rtable *rt = NULL;
	__be32 unused;

	if (cache)
		rt = dst_cache_get_ip4(cache, &unused);
	if (!rt) {
		rt = carisma_route_direct(net, via);
		if (cache && !IS_ERR(rt))
			dst_cache_set_ip4(cache, &rt->dst, 0);
	}
	return carisma_xmit(net, skb, rt, mtu);
}

/* Route a packet at LOCAL_OUT anew, which has another destination now. */
int carisma_helper_reroute(struct net *net, struct sk_buff *skb)
{
	return ip_route_me_harder(net, skb->sk, skb, RTN_UNSPEC);
}

/*
 * The socket that has this connection, whichever device it is bound to, if to any; without the device,
 * TCP's own look-up finds none that is.
 */
static struct sock *carisma_established(struct net *net, __be32 client, __be16 client_port, __be32 local, __be16 local_port)
{
	const __portpair ports = INET_COMBINED_PORTS(client_port, ntohs(local_port));
	INET_ADDR_COOKIE(cookie, client, local);
	unsigned int hash = inet_ehashfn(net, local, ntohs(local_port), client, client_port);
	struct inet_hashinfo *table = net->ipv4.tcp_death_row.hashinfo;
	struct hlist_nulls_node *node;
	struct sock *sk;
	int dif;

	rcu_read_lock();
again:
	sk_nulls_for_each_rcu(sk, node, &inet_ehash_bucket(table, hash)->chain) {
		dif = READ_ONCE(sk->sk_bound_dev_if);
		if (sk->sk_hash == hash && inet_match(net, sk, cookie, ports, dif, 0))
			goto found;
	}
	/* One on the way was moved to another chain: this is the end of that. */
	if (get_nulls_value(node) != (hash & table->ehash_mask))
		goto again;
	sk = NULL;
	goto out;
found:
	sk = __inet_lookup_established(net, client, client_port, local, ntohs(local_port), dif, 0);
out:
	rcu_read_unlock();
	return sk;
}

/* Whether an established, not a TIME_WAIT, socket has this connection (ports in network order). */
bool carisma_helper_connection_is_live(struct net *net, __be32 client, __be16 client_port, __be32 local, __be16 local_port)
{
	struct sock *sk = carisma_established(net, client, client_port, local, local_port);
	bool live;

	if (!sk)
		return false;
	live = sk->sk_state != TCP_TIME_WAIT;
	sock_gen_put(sk);
	return live;
}

/* The number that TCP expects next of the client; false without an established socket. */
bool carisma_helper_connection_expects(struct net *net, __be32 client, __be16 client_port, __be32 local, __be16 local_port, u32 *seq)
{
	struct sock *sk = carisma_established(net, client, client_port, local, local_port);
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
 * Let the bare ACK of this connection's handshake be enough for a socket, although its listener has
 * TCP_DEFER_ACCEPT: as if the SYN-ACK had been repeated for as long as that waits. The request's
 * timer is kept from counting, too, meanwhile.
 */
void carisma_helper_connection_undefer(struct net *net, __be32 client, __be16 client_port, __be32 local, __be16 local_port)
{
	struct sock *sk = carisma_established(net, client, client_port, local, local_port);
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

/* End the socket of this connection as `ss -K` does: RST to the peer, ECONNABORTED to the server. Process context. */
int carisma_helper_connection_abort(struct net *net, __be32 client, __be16 client_port, __be32 local, __be16 local_port)
{
	struct sock *sk = carisma_established(net, client, client_port, local, local_port);
	int err;

	if (!sk)
		return -ENOENT;
	err = tcp_abort(sk, ECONNABORTED);
	sock_gen_put(sk);
	return err;
}
