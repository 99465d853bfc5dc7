// SPDX-License-Identifier: GPL-2.0
/*
 * Giving TCP a connection with the numbers that its client has: what becomes of an ACK that brings
 * its own request along is argued in rust/net/adopt.rs.
 */
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/mptcp.h>
#include <net/protocol.h>
#include <net/request_sock.h>
#include <net/route.h>
#include <net/tcp.h>
#include <net/tcp_ecn.h>
#include <net/transp_v6.h>

#include "carisma_net.h"

/* Whether conntrack sees what comes in: it would not know how the connection began. */
static bool carisma_has_conntrack(const struct net *net, bool v6)
{
	const struct nf_hook_entries *entries;
	struct nf_hook_ops **ops;
	unsigned int i;

	entries = carisma_hooks(net, v6, NF_INET_PRE_ROUTING);
	if (!entries)
		return false;
	ops = nf_hook_entries_get_hook_ops(entries);
	for (i = 0; i < entries->num_hook_entries; i++)
		/* That of NF_IP6_PRI_CONNTRACK, too. */
		if (ops[i]->priority == NF_IP_PRI_CONNTRACK)
			return true;
	return false;
}

/* Whether TCP here may use what was agreed. */
static bool carisma_may_use(const struct net *net, const struct sk_buff *skb,
			    const struct carisma_adoption *it)
{
	return (!it->wscale_ok || READ_ONCE(net->ipv4.sysctl_tcp_window_scaling)) &&
	       (!it->sack_ok || READ_ONCE(net->ipv4.sysctl_tcp_sack)) &&
	       (!it->tstamp_ok || READ_ONCE(net->ipv4.sysctl_tcp_timestamps)) &&
	       (!it->ecn_ok || cookie_ecn_ok(net, skb_dst(skb)));
}

/* Whether children of this listener are withheld. */
static bool carisma_withholds(const struct sock *sk)
{
	const struct tcp_ulp_ops *ulp = READ_ONCE(inet_csk(sk)->icsk_ulp_ops);

	return ulp && !strcmp(ulp->name, "carisma");
}

/* Whether children of this listener lack nothing that only a SYN has, and are withheld if they must. */
static bool carisma_can_adopt(const struct sock *sk, bool withheld)
{
	return sk->sk_state == TCP_LISTEN && !sk_is_mptcp(sk) && !tcp_sk(sk)->save_syn &&
	       (!withheld || carisma_withholds(sk));
}

/* The request that the SYN would have left behind, as inet_reqsk_alloc() makes it. */
static struct request_sock *carisma_reqsk(struct net *net, struct sock *sk, bool v6,
					  const struct carisma_adoption *it)
{
	/* That of the packet's family, also for a listener of IPv6. */
	const struct request_sock_ops *ops = v6 ? tcpv6_prot.rsk_prot : tcp_prot.rsk_prot;
	u16 user_mss = READ_ONCE(tcp_sk(sk)->rx_opt.user_mss);
	struct inet_request_sock *ireq;
	struct request_sock *req;

	req = kmem_cache_alloc(ops->slab, GFP_ATOMIC | __GFP_NOWARN);
	if (!req)
		return NULL;
	/* The slab's objects may be looked at after they were freed, and are not cleared. */
	memset(req, 0, ops->obj_size);
	req->rsk_ops = ops;
	req_to_sk(req)->sk_prot = sk->sk_prot;
	sk_node_init(&req_to_sk(req)->sk_node);
	sk_tx_queue_clear(req_to_sk(req));
	refcount_set(&req->rsk_refcnt, 0);
	/* Without a reference: RCU keeps it, and TCP takes it out again before anything is freed. */
	req->rsk_listener = sk;
	req->syncookie = 1;
	req->mss = user_mss ? min(user_mss, it->mss) : it->mss;
	req->ts_recent = it->ts_recent;

	ireq = inet_rsk(req);
	ireq->ireq_state = TCP_NEW_SYN_RECV;
	write_pnet(&ireq->ireq_net, net);
	ireq->ireq_family = sk->sk_family;
	ireq->snd_wscale = min_t(u8, it->snd_wscale, TCP_MAX_WSCALE);
	ireq->rcv_wscale = min_t(u8, it->rcv_wscale, TCP_MAX_WSCALE);
	ireq->wscale_ok = it->wscale_ok;
	ireq->sack_ok = it->sack_ok;
	ireq->tstamp_ok = it->tstamp_ok;
	ireq->ecn_ok = it->ecn_ok;
	if (it->tstamp_ok)
		tcp_rsk(req)->ts_off = it->ts_now - tcp_ns_to_ts(false, tcp_clock_ns());
	return req;
}

/* TCP's socket, or what is left of one, that has the connection of a segment that came in. */
static struct sock *carisma_find_established(struct net *net, const struct sk_buff *skb, const struct tcphdr *th)
{
	if (carisma_skb_is_v6(skb)) {
		const struct ipv6hdr *ip = ipv6_hdr(skb);

		return __inet6_lookup_established(net, &ip->saddr, th->source, &ip->daddr, ntohs(th->dest),
						  skb->skb_iif, 0);
	} else {
		const struct iphdr *ip = ip_hdr(skb);

		return __inet_lookup_established(net, ip->saddr, th->source, ip->daddr, ntohs(th->dest),
						 skb->skb_iif, 0);
	}
}

/* The listener that TCP would show such a segment to. */
static struct sock *carisma_find_listener(struct net *net, struct sk_buff *skb, const struct tcphdr *th)
{
	const int doff = (const u8 *)th - skb->data + __tcp_hdrlen(th);

	if (carisma_skb_is_v6(skb)) {
		const struct ipv6hdr *ip = ipv6_hdr(skb);

		return inet6_lookup_listener(net, skb, doff, &ip->saddr, th->source, &ip->daddr,
					     ntohs(th->dest), skb->skb_iif, 0);
	} else {
		const struct iphdr *ip = ip_hdr(skb);

		return __inet_lookup_listener(net, skb, doff, ip->saddr, th->source, ip->daddr,
					      ntohs(th->dest), skb->skb_iif, 0);
	}
}

/*
 * What keeps TCP from adopting the connection that this segment of its client's belongs to, whose TCP
 * header is behind "ip" bytes. Without an obstacle, "listener" would get it.
 */
static enum carisma_obstacle carisma_find_obstacle(struct net *net, struct sk_buff *skb, unsigned int ip,
						   const struct carisma_adoption *it,
						   struct sock **listener)
{
	const struct tcphdr *th = (const struct tcphdr *)(skb_network_header(skb) + ip);
	struct sock *sk;
	int space;

	/* TCP would answer the ACK with a reset. */
	if (!READ_ONCE(net->ipv4.sysctl_tcp_syncookies))
		return CARISMA_OBSTACLE_SYNCOOKIES;
	if (carisma_has_conntrack(net, carisma_skb_is_v6(skb)))
		return CARISMA_OBSTACLE_CONNTRACK;
	if (!carisma_may_use(net, skb, it))
		return CARISMA_OBSTACLE_OPTIONS;
	sk = carisma_find_established(net, skb, th);
	if (sk) {
		/* TCP knows when a SYN may take the place of a TIME_WAIT. */
		sock_gen_put(sk);
		return CARISMA_OBSTACLE_TUPLE;
	}
	sk = carisma_find_listener(net, skb, th);
	if (!sk || !carisma_can_adopt(sk, it->withheld))
		return CARISMA_OBSTACLE_LISTENER;
	/* What the client was told that it may send, but for what is rounded to whole segments. */
	space = min_t(int, tcp_full_space(sk), U16_MAX);
	if (READ_ONCE(tcp_sk(sk)->window_clamp))
		space = min_t(u32, space, READ_ONCE(tcp_sk(sk)->window_clamp));
	if (space < it->window)
		return CARISMA_OBSTACLE_WINDOW;
	*listener = sk;
	return CARISMA_OBSTACLE_NONE;
}

/* Have TCP take a packet that came in, whose IP header is of "ip" bytes; false if there is none. */
static bool carisma_to_tcp(struct sk_buff *skb, struct request_sock *req, unsigned int ip)
{
	const struct inet6_protocol *tcp6;
	const struct net_protocol *tcp4;
	int (*handler)(struct sk_buff *skb);

	if (carisma_skb_is_v6(skb)) {
		tcp6 = rcu_dereference(inet6_protos[IPPROTO_TCP]);
		handler = tcp6 ? tcp6->handler : NULL;
	} else {
		tcp4 = rcu_dereference(inet_protos[IPPROTO_TCP]);
		handler = tcp4 ? tcp4->handler : NULL;
	}
	if (!handler)
		return false;
	/* A rule of TPROXY's has chosen a listener, and refers to it. */
	skb_orphan(skb);
	skb->sk = req_to_sk(req);
	skb->destructor = sock_pfree;
	skb_set_transport_header(skb, ip);
	skb_pull(skb, ip);
	handler(skb);
	return true;
}

/*
 * Give this node's TCP an ACK without options or extensions of IP's, and with it what it needs to make a socket of the ACK's connection,
 * if the hooks behind our own let it pass. Consumes the skb.
 */
enum carisma_obstacle carisma_helper_adopt(struct net *net, struct sk_buff *skb,
					   const struct carisma_adoption *it, nf_hookfn *own,
					   int (*okfn)(struct net *, struct sock *, struct sk_buff *))
{
	const unsigned int ip = carisma_skb_is_v6(skb) ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	enum carisma_obstacle obstacle = CARISMA_OBSTACLE_OTHER;
	struct request_sock *req;
	struct sock *sk;

	if (carisma_skb_arrive(net, skb))
		goto drop;
	if (!carisma_hooks_accept(net, skb, NF_INET_PRE_ROUTING, own, okfn))
		return CARISMA_OBSTACLE_FILTER;
	if (!carisma_route_in(skb))
		goto drop;
	obstacle = carisma_find_obstacle(net, skb, ip, it, &sk);
	if (obstacle)
		goto drop;
	/* Before it refers to the listener: a queue to user space would let go of the RCU lock. */
	if (!carisma_hooks_accept(net, skb, NF_INET_LOCAL_IN, own, okfn))
		return CARISMA_OBSTACLE_FILTER;
	obstacle = CARISMA_OBSTACLE_OTHER;
	req = carisma_reqsk(net, sk, carisma_skb_is_v6(skb), it);
	if (!req)
		goto drop;
	if (carisma_to_tcp(skb, req, ip))
		return CARISMA_OBSTACLE_NONE;
	kmem_cache_free(req->rsk_ops->slab, req);
drop:
	kfree_skb(skb);
	return obstacle;
}

/*
 * Whether TCP could adopt the connection that this SYN would begin, by what is known of it so far:
 * the segment is at PRE_ROUTING, its headers linear, that of IP with all that belongs to it of "ip"
 * bytes.
 */
enum carisma_obstacle carisma_helper_may_adopt(struct net *net, struct sk_buff *skb, unsigned int ip,
					       const struct carisma_adoption *it)
{
	struct sock *sk;
	bool local;

	if (carisma_skb_is_v6(skb))
		local = carisma_helper_is_local(net, ipv6_hdr(skb)->daddr.s6_addr);
	else
		local = inet_addr_type(net, ip_hdr(skb)->daddr) == RTN_LOCAL;
	if (!local)
		return CARISMA_OBSTACLE_OTHER;
	return carisma_find_obstacle(net, skb, ip, it, &sk);
}

/* Whether a server listens for what a client's SYN asks for: as for carisma_helper_may_withhold(). */
bool carisma_helper_has_listener(struct net *net, struct sk_buff *skb, unsigned int ip)
{
	const struct tcphdr *th = (const struct tcphdr *)(skb_network_header(skb) + ip);

	return carisma_find_listener(net, skb, th);
}

/*
 * Whether TCP would make a child, which is withheld, of the connection that this segment ends the handshake of:
 * at PRE_ROUTING, its headers linear, that of IP with all that belongs to it of "ip" bytes.
 */
bool carisma_helper_may_withhold(struct net *net, struct sk_buff *skb, unsigned int ip)
{
	const struct tcphdr *th = (const struct tcphdr *)(skb_network_header(skb) + ip);
	struct sock *sk = carisma_find_listener(net, skb, th);

	return sk && carisma_withholds(sk);
}
