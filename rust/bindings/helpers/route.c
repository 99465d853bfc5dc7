// SPDX-License-Identifier: GPL-2.0
/* Routes, of either family. All run under RCU with bottom halves off. */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/skbuff.h>
#include <net/dst.h>
#include <net/dst_cache.h>
#include <net/ip.h>
#include <net/ip6_fib.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/route.h>
#include <net/tcp.h>
#include <net/xfrm.h>

#include "carisma_net.h"

/* What the look-ups below say, with a reference; or an error. */
static struct dst_entry *carisma_dst4(struct net *net, struct flowi4 *fl4)
{
	struct rtable *rt = ip_route_output_key(net, fl4);

	return IS_ERR(rt) ? ERR_CAST(rt) : &rt->dst;
}

static struct dst_entry *carisma_dst6(struct net *net, struct flowi6 *fl6)
{
	struct dst_entry *dst = ip6_route_output(net, NULL, fl6);
	int err = dst->error;

	if (!err)
		return dst;
	dst_release(dst);
	return ERR_PTR(err);
}

/* The same, through what IPsec's policy says of it: with IPv4 the look-up itself asks for that. */
static struct dst_entry *carisma_dst6_secured(struct net *net, struct flowi6 *fl6)
{
	struct dst_entry *dst = carisma_dst6(net, fl6);

	return IS_ERR(dst) ? dst : xfrm_lookup(net, dst, flowi6_to_flowi(fl6), NULL, 0);
}

/* The route of a packet with this mark from one of its ends to the other, or of one that answers it. */
static struct dst_entry *carisma_route(struct net *net, const struct sk_buff *skb, bool back, u32 mark)
{
	if (carisma_skb_is_v6(skb)) {
		const struct ipv6hdr *ip = ipv6_hdr(skb);
		struct flowi6 fl6 = {
			.daddr = back ? ip->saddr : ip->daddr,
			.saddr = back ? ip->daddr : ip->saddr,
			.flowi6_mark = mark,
			.flowi6_flags = FLOWI_FLAG_ANYSRC,
			.flowi6_proto = ip->nexthdr,
		};

		/* Such an address says nothing without a link. */
		if (carisma_is_link_local(&fl6.daddr))
			fl6.flowi6_oif = skb->skb_iif;
		return carisma_dst6_secured(net, &fl6);
	} else {
		const struct iphdr *ip = ip_hdr(skb);
		struct flowi4 fl4 = {
			.daddr = back ? ip->saddr : ip->daddr,
			.saddr = back ? ip->daddr : ip->saddr,
			.flowi4_mark = mark,
			.flowi4_flags = FLOWI_FLAG_ANYSRC,
			.flowi4_proto = ip->protocol,
		};

		return carisma_dst4(net, &fl4);
	}
}

/* The route of what we answer to this packet, with a reference; NULL if there is none. */
struct dst_entry *carisma_helper_route_back(struct net *net, const struct sk_buff *skb)
{
	struct dst_entry *dst = carisma_route(net, skb, true, 0);

	return IS_ERR(dst) ? NULL : dst;
}

/* What TCP here would say that it takes in a segment from there. */
u16 carisma_helper_dst_advmss(const struct dst_entry *dst)
{
	return clamp_t(u32, dst_metric_advmss(dst), TCP_MIN_MSS, U16_MAX);
}

void carisma_helper_dst_release(struct dst_entry *dst)
{
	dst_release(dst);
}

/* Whether a packet to the node at "via" would not be sent to itself, but to a gateway or to us. */
static bool carisma_is_off_link(const struct dst_entry *dst, const __u8 *via)
{
	if (dst->dev->flags & IFF_LOOPBACK)
		return true;
	if (carisma_is_v4(via)) {
		const struct rtable *rt = dst_rtable(dst);

		return rt->rt_type != RTN_UNICAST || rt->rt_gw_family != AF_INET ||
		       rt->rt_gw4 != carisma_in4(via);
	} else {
		return dst_rt6_info(dst)->rt6i_flags & (RTF_LOCAL | RTF_ANYCAST | RTF_GATEWAY);
	}
}

/*
 * A route to the node at "via" itself. With IPv4 any packet goes there by it: the neighbour entry is that
 * of "via", not of the packet's destination, as IPVS and nf_dup_ipv4 have it. A gateway, and our own
 * loopback, would send the packet to its destination, that is, to us again. With IPv6 such a route would
 * be one of its own (ip6_pol_route()), which keeps its device from going for as long as a cache has it:
 * there this is the ordinary one, and carisma_xmit_link() is told of the neighbour.
 */
static struct dst_entry *carisma_route_direct(struct net *net, const __u8 *via)
{
	struct dst_entry *dst;

	if (carisma_is_v4(via)) {
		struct flowi4 fl4 = {
			.daddr = carisma_in4(via),
			.flowi4_flags = FLOWI_FLAG_KNOWN_NH,
		};

		dst = carisma_dst4(net, &fl4);
	} else {
		struct flowi6 fl6 = { .daddr = carisma_in6(via) };

		dst = carisma_dst6(net, &fl6);
	}
	if (!IS_ERR(dst) && carisma_is_off_link(dst, via)) {
		dst_release(dst);
		return ERR_PTR(-EHOSTUNREACH);
	}
	return dst;
}

/* A route that was kept in a cache, if one is there, with this source. */
static struct dst_entry *carisma_cached(struct dst_cache *cache, const __u8 *from, bool v4)
{
	struct dst_entry *dst;
	struct in6_addr saddr6;
	struct rtable *rt;
	__be32 saddr4;
	bool same;

	if (!cache)
		return NULL;
	if (v4) {
		rt = dst_cache_get_ip4(cache, &saddr4);
		dst = rt ? &rt->dst : NULL;
		same = !from || saddr4 == carisma_in4(from);
	} else {
		dst = dst_cache_get_ip6(cache, &saddr6);
		same = !from || !memcmp(&saddr6, from, sizeof(saddr6));
	}
	if (dst && !same) {
		dst_release(dst);
		return NULL;
	}
	return dst;
}

static void carisma_keep(struct dst_cache *cache, struct dst_entry *dst, const __u8 *from, bool v4)
{
	struct in6_addr saddr = {};

	if (!cache || IS_ERR(dst))
		return;
	if (v4) {
		dst_cache_set_ip4(cache, dst, from ? carisma_in4(from) : 0);
	} else {
		if (from)
			saddr = carisma_in6(from);
		dst_cache_set_ip6(cache, dst, &saddr);
	}
}

/* A cache, which has such routes to "via" only, or is NULL, spares looking it up for each packet. */
static struct dst_entry *carisma_route_direct_cached(struct net *net, const __u8 *via,
						     struct dst_cache *cache)
{
	bool v4 = carisma_is_v4(via);
	struct dst_entry *dst = carisma_cached(cache, NULL, v4);

	if (!dst) {
		dst = carisma_route_direct(net, via);
		carisma_keep(cache, dst, NULL, v4);
	}
	return dst;
}

/*
 * The route of a tunnel from an address of this node's to a node elsewhere. A cache, which has routes to
 * "to" only, or is NULL, spares looking it up for each packet.
 */
static struct dst_entry *carisma_route_tunnel(struct net *net, const __u8 *from, const __u8 *to,
					      struct dst_cache *cache)
{
	bool v4 = carisma_is_v4(to), off;
	struct dst_entry *dst;

	/* Unspecified it may be, for either. */
	if (memchr_inv(from, 0, sizeof(struct in6_addr)) && carisma_is_v4(from) != v4)
		return ERR_PTR(-EAFNOSUPPORT);
	dst = carisma_cached(cache, from, v4);
	if (dst)
		return dst;
	if (v4) {
		struct flowi4 fl4 = {
			.daddr = carisma_in4(to),
			.saddr = carisma_in4(from),
			.flowi4_proto = IPPROTO_IPIP,
		};

		dst = carisma_dst4(net, &fl4);
		off = !IS_ERR(dst) && dst_rtable(dst)->rt_type != RTN_UNICAST;
	} else {
		struct flowi6 fl6 = {
			.daddr = carisma_in6(to),
			.saddr = carisma_in6(from),
			.flowi6_proto = IPPROTO_IPV6,
		};

		dst = carisma_dst6_secured(net, &fl6);
		off = !IS_ERR(dst) && (dst_rt6_info(dst)->rt6i_flags & (RTF_LOCAL | RTF_ANYCAST));
	}
	if (IS_ERR(dst))
		return dst;
	if (off || (dst->dev->flags & IFF_LOOPBACK)) {
		dst_release(dst);
		return ERR_PTR(-EHOSTUNREACH);
	}
	carisma_keep(cache, dst, from, v4);
	return dst;
}

/* The number of the device by which any packet can be sent to the node at "via" itself; 0 if there is none. */
int carisma_helper_link_to(struct net *net, const __u8 *via, struct dst_cache *cache)
{
	struct dst_entry *dst = carisma_route_direct_cached(net, via, cache);
	int link;

	if (IS_ERR(dst))
		return 0;
	link = dst->dev->ifindex;
	dst_release(dst);
	return link;
}

/* Whether packets to this address are this node's own. */
bool carisma_helper_is_local(struct net *net, const __u8 *addr)
{
	struct flowi6 fl6 = { .daddr = carisma_in6(addr) };
	struct dst_entry *dst;
	bool local;

	if (carisma_is_v4(addr))
		return inet_addr_type(net, carisma_in4(addr)) == RTN_LOCAL;
	dst = carisma_dst6(net, &fl6);
	if (IS_ERR(dst))
		return false;
	local = dst_rt6_info(dst)->rt6i_flags & RTF_LOCAL;
	dst_release(dst);
	return local;
}
