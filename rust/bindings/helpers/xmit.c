// SPDX-License-Identifier: GPL-2.0
/* The ways a packet leaves us. All run under RCU with bottom halves off. */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/skbuff.h>
#include <net/dst.h>
#include <net/gso.h>
#include <net/ip.h>
#include <net/ip6_route.h>
#include <net/neighbour.h>

#include "carisma_net.h"

/*
 * Count the hop that forwarding is (RFC 1812, section 5.3.1). A segment whose last hop led to us is
 * where its sender wanted it, and goes on with that hop: no loop can come of it, as a back end does
 * not forward, and a router that gets it in its place counts the hop in earnest.
 */
void carisma_helper_hop(struct sk_buff *skb)
{
	if (carisma_skb_is_v6(skb)) {
		if (ipv6_hdr(skb)->hop_limit > 1)
			ipv6_hdr(skb)->hop_limit--;
	} else if (ip_hdr(skb)->ttl > 1) {
		ip_decrease_ttl(ip_hdr(skb));
	}
}

/* Whether a packet, or what the device makes of it, does not fit. */
static bool carisma_is_longer(const struct sk_buff *skb, unsigned int mtu)
{
	return skb_is_gso(skb) ? !skb_gso_validate_network_len(skb, mtu) : skb->len > mtu;
}

/* Whether IP would refuse to take this packet apart so that it fits (ip_finish_output(), ip6_forward()). */
static bool carisma_is_too_big(const struct sk_buff *skb, unsigned int mtu)
{
	if (skb->ignore_df)
		return false;
	if (!carisma_skb_is_v6(skb) && !(ip_hdr(skb)->frag_off & htons(IP_DF)))
		return false;
	return carisma_is_longer(skb, mtu);
}

/*
 * Let go of what has to do with how a packet came in: a socket that a program has chosen for it
 * (bpf_sk_assign()), which without a reference is valid only under the RCU lock of the arrival; and what its
 * bridge was about to do with it.
 */
static void carisma_skb_let_go(struct sk_buff *skb)
{
	if (skb_sk_is_prefetched(skb))
		skb_orphan(skb);
#if IS_ENABLED(CONFIG_BRIDGE_NETFILTER)
	skb_ext_del(skb, SKB_EXT_BRIDGE_NF);
#endif
}

/*
 * Send a whole packet by a route, of which the reference is given up. LOCAL_OUT is left out:
 * conntrack there has not seen what we hold or forward, and would call it invalid. Consumes the skb,
 * unless it is too big: then *mtu, else 0, is how big it may be.
 */
static int carisma_xmit(struct net *net, struct sk_buff *skb, struct dst_entry *dst, unsigned int *mtu)
{
	unsigned int max;

	*mtu = 0;
	if (IS_ERR(dst)) {
		kfree_skb(skb);
		return PTR_ERR(dst);
	}
	carisma_skb_let_go(skb);
	skb_dst_drop(skb);
	skb_dst_set(skb, dst);
	skb->dev = dst->dev;
	skb_forward_csum(skb);
	skb_clear_tstamp(skb);
	if (carisma_skb_is_v6(skb)) {
		memset(IP6CB(skb), 0, sizeof(*IP6CB(skb)));
		max = ip6_skb_dst_mtu(skb);
	} else {
		memset(IPCB(skb), 0, sizeof(*IPCB(skb)));
		max = ip_skb_dst_mtu(NULL, skb);
	}
	if (carisma_is_too_big(skb, max)) {
		*mtu = max;
		return -EMSGSIZE;
	}
	return dst_output(net, NULL, skb);
}

/* Send a whole packet where its header says, as above. */
int carisma_helper_xmit(struct net *net, struct sk_buff *skb, unsigned int *mtu)
{
	return carisma_xmit(net, skb, carisma_route(net, skb, false, skb->mark), mtu);
}

/* Send a whole packet by a route, of which the reference is given up. As above. */
int carisma_helper_xmit_by(struct net *net, struct sk_buff *skb, struct dst_entry *dst, unsigned int *mtu)
{
	return carisma_xmit(net, skb, dst, mtu);
}

/*
 * Send a whole packet to the node at "via", of which only the link address is of interest. IP would go by
 * the packet's destination, and netfilter's POST_ROUTING is left out.
 */
static int carisma_xmit_link(struct sk_buff *skb, struct dst_entry *dst, const __u8 *via, unsigned int *mtu)
{
	struct net_device *dev = dst->dev;
	struct in6_addr in6 = carisma_in6(via);
	unsigned int max = dst_mtu(dst);

	dst_release(dst);
	/* Nobody here takes it apart, not even if it came so, or may be. */
	if (carisma_is_longer(skb, max)) {
		*mtu = max;
		return -EMSGSIZE;
	}
	if (skb_cow_head(skb, LL_RESERVED_SPACE(dev))) {
		kfree_skb(skb);
		return -ENOMEM;
	}
	carisma_skb_let_go(skb);
	skb_dst_drop(skb);
	skb->dev = dev;
	skb->protocol = htons(carisma_skb_is_v6(skb) ? ETH_P_IPV6 : ETH_P_IP);
	skb_forward_csum(skb);
	skb_clear_tstamp(skb);
	if (carisma_is_v4(via))
		return neigh_xmit(NEIGH_ARP_TABLE, dev, &in6.s6_addr32[3], skb);
	return neigh_xmit(NEIGH_ND_TABLE, dev, &in6, skb);
}

/* Send a whole packet to the node at "via" itself, whatever its header says. As carisma_helper_xmit(). */
int carisma_helper_xmit_direct(struct net *net, struct sk_buff *skb, const __u8 *via,
			       struct dst_cache *cache, unsigned int *mtu)
{
	struct dst_entry *dst = carisma_route_direct_cached(net, via, cache);

	*mtu = 0;
	if (!IS_ERR(dst) && (carisma_skb_is_v6(skb) || !carisma_is_v4(via)))
		return carisma_xmit_link(skb, dst, via, mtu);
	return carisma_xmit(net, skb, dst, mtu);
}

/* Route a packet at LOCAL_OUT anew, which has another destination now. */
int carisma_helper_reroute(struct net *net, struct sk_buff *skb)
{
	if (carisma_skb_is_v6(skb))
		return ip6_route_me_harder(net, skb->sk, skb);
	return ip_route_me_harder(net, skb->sk, skb, RTN_UNSPEC);
}
