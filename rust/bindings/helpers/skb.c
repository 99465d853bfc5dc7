// SPDX-License-Identifier: GPL-2.0
/* Socket buffers: what is inline, and the way a segment is given to TCP. All run under RCU with bottom halves off. */
#include <linux/icmp.h>
#include <linux/ip.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <net/dst.h>
#include <net/gso.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/route.h>
#include <net/tcp.h>

#include "carisma_net.h"

/* The header of the IPv4 packet at byte "at", if that is no later fragment, which has no ports. */
static const struct iphdr *carisma_ip_hdr(const struct sk_buff *skb, unsigned int at, struct iphdr *buf)
{
	const struct iphdr *ip = skb_header_pointer(skb, at, sizeof(*buf), buf);

	if (!ip || ip->version != 4 || ip->ihl < 5 || (ip->frag_off & htons(IP_OFFSET)))
		return NULL;
	return ip;
}

/* Whether there is an IPv4 TCP segment at byte "at", and whose. */
bool carisma_helper_skb_peek_tcp(const struct sk_buff *skb, unsigned int at, struct carisma_peek *peek)
{
	struct iphdr ip_buf;
	const struct iphdr *ip = carisma_ip_hdr(skb, at, &ip_buf);
	const struct tcphdr *tcp;
	struct tcphdr buf;

	if (!ip || ip->protocol != IPPROTO_TCP)
		return false;
	tcp = skb_header_pointer(skb, at + ip->ihl * 4, sizeof(buf), &buf);
	if (!tcp)
		return false;
	peek->saddr = ip->saddr;
	peek->daddr = ip->daddr;
	peek->sport = tcp->source;
	peek->dport = tcp->dest;
	peek->flags = ((const __u8 *)tcp)[13];
	return true;
}

/* Whether there is an ICMP message about another packet at byte "at". */
bool carisma_helper_skb_is_icmp_error(const struct sk_buff *skb, unsigned int at)
{
	struct iphdr ip_buf;
	const struct iphdr *ip = carisma_ip_hdr(skb, at, &ip_buf);
	const __u8 *type;
	__u8 buf;

	if (!ip || ip->protocol != IPPROTO_ICMP)
		return false;
	type = skb_header_pointer(skb, at + ip->ihl * 4, sizeof(buf), &buf);
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

/* Whether a TIME_WAIT socket has this connection. */
bool carisma_helper_connection_is_in_time_wait(struct net *net, __be32 client, __be16 client_port, __be32 local, __be16 local_port)
{
	struct sock *sk = carisma_established(net, client, client_port, local, local_port);
	bool waits;

	if (!sk)
		return false;
	waits = sk->sk_state == TCP_TIME_WAIT;
	sock_gen_put(sk);
	return waits;
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
