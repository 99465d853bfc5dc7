// SPDX-License-Identifier: GPL-2.0
/* IP in IP (RFC 2003). All run under RCU with bottom halves off. */
#include <linux/ip.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <net/dst_cache.h>
#include <net/inet_ecn.h>
#include <net/ip.h>
#include <net/ip_tunnels.h>
#include <net/route.h>

#include "carisma_net.h"

/*
 * The route of a tunnel from an address of this node's to a node elsewhere. A cache, which has routes to
 * "to" only, or is NULL, spares looking it up for each packet.
 */
static struct rtable *carisma_route_tunnel(struct net *net, __be32 from, __be32 to, struct dst_cache *cache)
{
	struct flowi4 fl4 = {
		.daddr = to,
		.saddr = from,
		.flowi4_proto = IPPROTO_IPIP,
	};
	struct rtable *rt;
	__be32 saddr;

	if (cache) {
		rt = dst_cache_get_ip4(cache, &saddr);
		if (rt && saddr == from)
			return rt;
		if (rt)
			ip_rt_put(rt);
	}
	rt = ip_route_output_key(net, &fl4);
	if (IS_ERR(rt))
		return rt;
	if (rt->rt_type != RTN_UNICAST || (rt->dst.dev->flags & IFF_LOOPBACK)) {
		ip_rt_put(rt);
		return ERR_PTR(-EHOSTUNREACH);
	}
	if (cache)
		dst_cache_set_ip4(cache, &rt->dst, from);
	return rt;
}

/* How big a packet may be that a tunnel takes without making fragments, which is never less than 48. */
static unsigned int carisma_tunnel_room(const struct rtable *rt)
{
	return max_t(unsigned int, dst_mtu(&rt->dst), IPV4_MIN_MTU) - sizeof(struct iphdr);
}

/* The same, or 0 if there is no such tunnel. */
unsigned int carisma_helper_tunnel_mtu(struct net *net, __be32 from, __be32 to, struct dst_cache *cache)
{
	struct rtable *rt = carisma_route_tunnel(net, from, to, cache);
	unsigned int mtu;

	if (IS_ERR(rt))
		return 0;
	mtu = carisma_tunnel_room(rt);
	ip_rt_put(rt);
	return mtu;
}

/* Put an outer header before a whole IPv4 packet. */
static int carisma_encapsulate(struct net *net, struct sk_buff *skb, const struct rtable *rt, __be32 from, __be32 to)
{
	const unsigned int len = sizeof(struct iphdr);
	const struct iphdr *inner = ip_hdr(skb);
	const u8 tos = ip_tunnel_ecn_encap(inner->tos, inner, skb);
	const __be16 df = inner->frag_off & htons(IP_DF);
	struct iphdr *ip;
	int err;

	err = skb_cow_head(skb, LL_RESERVED_SPACE(rt->dst.dev) + rt->dst.header_len + len);
	if (!err)
		err = iptunnel_handle_offloads(skb, SKB_GSO_IPXIP4);
	if (err)
		return err;
	skb->transport_header = skb->network_header;
	skb_set_inner_ipproto(skb, IPPROTO_IPIP);
	skb_set_inner_mac_header(skb, skb_inner_network_offset(skb));
	skb_push(skb, len);
	skb_reset_network_header(skb);
	ip = ip_hdr(skb);
	*ip = (struct iphdr) {
		.version = 4,
		.ihl = len / 4,
		.tos = tos,
		.frag_off = df,
		.ttl = ip4_dst_hoplimit(&rt->dst),
		.protocol = IPPROTO_IPIP,
		.saddr = from,
		.daddr = to,
	};
	iph_set_totlen(ip, skb->len);
	__ip_select_ident(net, ip, skb_shinfo(skb)->gso_segs ?: 1);
	ip_send_check(ip);
	return 0;
}

/*
 * Send a whole IPv4 packet in one from this node to another. What may not be taken apart does not
 * become a packet that may be. As carisma_helper_xmit().
 */
int carisma_helper_xmit_tunnel(struct net *net, struct sk_buff *skb, __be32 from, __be32 to,
			       struct dst_cache *cache, unsigned int *mtu)
{
	struct rtable *rt = carisma_route_tunnel(net, from, to, cache);
	unsigned int max;
	int err;

	*mtu = 0;
	if (IS_ERR(rt)) {
		kfree_skb(skb);
		return PTR_ERR(rt);
	}
	max = carisma_tunnel_room(rt);
	if (carisma_is_too_big(skb, max)) {
		ip_rt_put(rt);
		*mtu = max;
		return -EMSGSIZE;
	}
	err = carisma_encapsulate(net, skb, rt, from, to);
	if (err) {
		ip_rt_put(rt);
		kfree_skb(skb);
		return err;
	}
	return carisma_xmit(net, skb, rt, mtu);
}

/* The addresses of a packet of IP in IP, and how long its outer header is; a fragment is none. */
bool carisma_helper_skb_peek_tunnel(const struct sk_buff *skb, __be32 *from, __be32 *to, unsigned int *len)
{
	const struct iphdr *ip = ip_hdr(skb);

	if (ip->version != 4 || ip->protocol != IPPROTO_IPIP || ip_is_fragment(ip))
		return false;
	*from = ip->saddr;
	*to = ip->daddr;
	*len = ip->ihl * 4;
	return true;
}

/*
 * Take the outer header, of "len" bytes, off a packet that came in. On an error it has been changed, and
 * is of no use any more.
 */
int carisma_helper_tunnel_strip(struct sk_buff *skb, unsigned int len)
{
	struct iphdr outer = *ip_hdr(skb);
	int err;

	/* The link header is moved, of which a tap may have the packet still. */
	if (!pskb_may_pull(skb, len + sizeof(struct iphdr)) || skb_unclone(skb, GFP_ATOMIC))
		return -ENOMEM;
	err = iptunnel_pull_header(skb, len, htons(ETH_P_IP), false);
	if (err)
		return err;
	skb_reset_network_header(skb);
	skb_mac_header_rebuild(skb);
	/* RFC 6040, section 4.2. */
	return IP_ECN_decapsulate(&outer, skb) > 1 ? -EINVAL : 0;
}

/* Have what was in a tunnel come in by the same device. Consumes the skb. */
int carisma_helper_tunnel_receive(struct sk_buff *skb)
{
	return netif_rx(skb) == NET_RX_SUCCESS ? 0 : -ENOBUFS;
}

/*
 * Take note of how big a packet may be of those that were sent through a tunnel: the header of one is
 * at byte "at", whole and linear.
 */
void carisma_helper_tunnel_update_pmtu(struct net *net, struct sk_buff *skb, unsigned int at, unsigned int mtu)
{
	__skb_pull(skb, at);
	ipv4_update_pmtu(skb, net, mtu, 0, IPPROTO_IPIP);
	__skb_push(skb, at);
}
