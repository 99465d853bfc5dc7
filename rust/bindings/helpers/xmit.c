// SPDX-License-Identifier: GPL-2.0
/* Routes, and the ways a packet leaves us. All run under RCU with bottom halves off. */
#include <linux/ip.h>
#include <linux/netfilter_ipv4.h>
#include <linux/skbuff.h>
#include <net/dst.h>
#include <net/dst_cache.h>
#include <net/gso.h>
#include <net/ip.h>
#include <net/ip_tunnels.h>
#include <net/route.h>

#include "carisma_net.h"

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

/*
 * Such a route is kept by nobody else: a cache, which has routes to "via" only, or is NULL, spares making
 * one for each packet.
 */
static struct rtable *carisma_route_direct_cached(struct net *net, __be32 via, struct dst_cache *cache)
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
	return rt;
}

/* Whether any packet can be sent to the node at "via" itself. */
bool carisma_helper_is_on_link(struct net *net, __be32 via, struct dst_cache *cache)
{
	struct rtable *rt = carisma_route_direct_cached(net, via, cache);

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

/* Send a whole IPv4 packet to the node at "via" itself, whatever its header says. As above. */
int carisma_helper_xmit_direct(struct net *net, struct sk_buff *skb, __be32 via, struct dst_cache *cache,
			       unsigned int *mtu)
{
	return carisma_xmit(net, skb, carisma_route_direct_cached(net, via, cache), mtu);
}

/* Route a packet at LOCAL_OUT anew, which has another destination now. */
int carisma_helper_reroute(struct net *net, struct sk_buff *skb)
{
	return ip_route_me_harder(net, skb->sk, skb, RTN_UNSPEC);
}
