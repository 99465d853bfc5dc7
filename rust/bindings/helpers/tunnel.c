// SPDX-License-Identifier: GPL-2.0
/* IP in IP, of either family in either (RFC 2003, RFC 2473, RFC 4213). All run under RCU with bottom halves off. */
#include <linux/if_arp.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <net/dst_cache.h>
#include <net/inet_ecn.h>
#include <net/ip.h>
#include <net/ip6_route.h>
#include <net/ip_tunnels.h>
#include <net/ipv6.h>

#include "carisma_net.h"

/* How big a packet may be that a tunnel takes without making fragments. */
static unsigned int carisma_tunnel_room(const struct dst_entry *dst, bool v4)
{
	if (v4)
		return max_t(unsigned int, dst_mtu(dst), IPV4_MIN_MTU) - sizeof(struct iphdr);
	return max_t(unsigned int, dst_mtu(dst), IPV6_MIN_MTU) - sizeof(struct ipv6hdr);
}

/* The same, or 0 if there is no such tunnel. */
unsigned int carisma_helper_tunnel_mtu(struct net *net, const __u8 *from, const __u8 *to,
				       struct dst_cache *cache)
{
	struct dst_entry *dst = carisma_route_tunnel(net, from, to, cache);
	unsigned int mtu;

	if (IS_ERR(dst))
		return 0;
	mtu = carisma_tunnel_room(dst, carisma_is_v4(to));
	dst_release(dst);
	return mtu;
}

/* Put an outer header before a whole packet. */
static int carisma_encapsulate(struct net *net, struct sk_buff *skb, struct dst_entry *dst,
			       const __u8 *from, const __u8 *to)
{
	const bool v4 = carisma_is_v4(to), inner_v6 = carisma_skb_is_v6(skb);
	const unsigned int len = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const __u8 proto = inner_v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	/* No router takes an IPv6 packet apart. */
	const __be16 df = inner_v6 ? htons(IP_DF) : ip_hdr(skb)->frag_off & htons(IP_DF);
	__u8 tos;
	int err;

	skb->protocol = htons(inner_v6 ? ETH_P_IPV6 : ETH_P_IP);
	tos = ip_tunnel_get_dsfield(ip_hdr(skb), skb);
	tos = ip_tunnel_ecn_encap(tos, ip_hdr(skb), skb);
	err = skb_cow_head(skb, LL_RESERVED_SPACE(dst->dev) + dst->header_len + len);
	if (!err)
		err = iptunnel_handle_offloads(skb, v4 ? SKB_GSO_IPXIP4 : SKB_GSO_IPXIP6);
	if (err)
		return err;
	skb->transport_header = skb->network_header;
	skb_set_inner_ipproto(skb, proto);
	skb_set_inner_mac_header(skb, skb_inner_network_offset(skb));
	skb_push(skb, len);
	skb_reset_network_header(skb);
	if (v4) {
		struct iphdr *ip = ip_hdr(skb);

		*ip = (struct iphdr) {
			.version = 4,
			.ihl = len / 4,
			.tos = tos,
			.frag_off = df,
			.ttl = ip4_dst_hoplimit(dst),
			.protocol = proto,
			.saddr = carisma_in4(from),
			.daddr = carisma_in4(to),
		};
		iph_set_totlen(ip, skb->len);
		__ip_select_ident(net, ip, skb_shinfo(skb)->gso_segs ?: 1);
		ip_send_check(ip);
	} else {
		struct ipv6hdr *ip = ipv6_hdr(skb);

		ip6_flow_hdr(ip, tos, 0);
		ipv6_set_payload_len(ip, skb->len - len);
		ip->nexthdr = proto;
		ip->hop_limit = ip6_dst_hoplimit(dst);
		ip->saddr = carisma_in6(from);
		ip->daddr = carisma_in6(to);
		/* What may be taken apart, may be so by the tunnel's end (RFC 2473, section 7.2). */
		if (!df)
			skb->ignore_df = 1;
	}
	skb->protocol = htons(v4 ? ETH_P_IP : ETH_P_IPV6);
	return 0;
}

/*
 * Send a whole packet in one from this node to another. What may not be taken apart does not become a
 * packet that may be. As carisma_helper_xmit().
 */
int carisma_helper_xmit_tunnel(struct net *net, struct sk_buff *skb, const __u8 *from, const __u8 *to,
			       struct dst_cache *cache, unsigned int *mtu)
{
	struct dst_entry *dst = carisma_route_tunnel(net, from, to, cache);
	unsigned int max;
	int err;

	*mtu = 0;
	if (IS_ERR(dst)) {
		kfree_skb(skb);
		return PTR_ERR(dst);
	}
	max = carisma_tunnel_room(dst, carisma_is_v4(to));
	if (carisma_is_too_big(skb, max)) {
		dst_release(dst);
		*mtu = max;
		return -EMSGSIZE;
	}
	err = carisma_encapsulate(net, skb, dst, from, to);
	if (err) {
		dst_release(dst);
		kfree_skb(skb);
		return err;
	}
	return carisma_xmit(net, skb, dst, mtu);
}

/* The addresses of a packet of IP in IP, and how long its outer header is; a fragment is none. */
bool carisma_helper_skb_peek_tunnel(const struct sk_buff *skb, __u8 *from, __u8 *to, unsigned int *len)
{
	if (carisma_skb_is_v6(skb)) {
		const struct ipv6hdr *ip = ipv6_hdr(skb);

		if (ip->nexthdr != IPPROTO_IPIP && ip->nexthdr != IPPROTO_IPV6)
			return false;
		memcpy(from, &ip->saddr, sizeof(ip->saddr));
		memcpy(to, &ip->daddr, sizeof(ip->daddr));
		*len = sizeof(*ip);
	} else {
		const struct iphdr *ip = ip_hdr(skb);

		if ((ip->protocol != IPPROTO_IPIP && ip->protocol != IPPROTO_IPV6) || ip_is_fragment(ip))
			return false;
		carisma_set_in4(from, ip->saddr);
		carisma_set_in4(to, ip->daddr);
		*len = ip->ihl * 4;
	}
	return true;
}

/*
 * Take the outer header, of "len" bytes, off a packet that came in. On an error it has been changed, and
 * is of no use any more.
 */
int carisma_helper_tunnel_strip(struct sk_buff *skb, unsigned int len)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} outer;
	const bool v6 = carisma_skb_is_v6(skb);
	__be16 protocol;
	int err;

	if (v6)
		outer.v6 = *ipv6_hdr(skb);
	else
		outer.v4 = *ip_hdr(skb);
	protocol = htons((v6 ? outer.v6.nexthdr : outer.v4.protocol) == IPPROTO_IPV6 ? ETH_P_IPV6 : ETH_P_IP);
	/* The link header is moved, of which a tap may have the packet still. */
	if (!pskb_may_pull(skb, len + (protocol == htons(ETH_P_IPV6) ? sizeof(struct ipv6hdr) : sizeof(struct iphdr))) ||
	    skb_unclone(skb, GFP_ATOMIC))
		return -ENOMEM;
	err = iptunnel_pull_header(skb, len, protocol, false);
	if (err)
		return err;
	skb_reset_network_header(skb);
	skb_mac_header_rebuild(skb);
	if (skb->dev->type == ARPHRD_ETHER && skb_mac_header_was_set(skb) && skb->mac_len == ETH_HLEN)
		eth_hdr(skb)->h_proto = protocol;
	/* RFC 6040, section 4.2. */
	return (v6 ? IP6_ECN_decapsulate(&outer.v6, skb) : IP_ECN_decapsulate(&outer.v4, skb)) > 1 ?
	       -EINVAL : 0;
}

/* Have what was in a tunnel come in by the same device. Consumes the skb. */
int carisma_helper_tunnel_receive(struct sk_buff *skb)
{
	carisma_skb_let_go(skb);
	return netif_rx(skb) == NET_RX_SUCCESS ? 0 : -ENOBUFS;
}

/*
 * Take note of how big a packet may be of those that were sent through a tunnel: the header of one is
 * at byte "at", whole and linear.
 */
void carisma_helper_tunnel_update_pmtu(struct net *net, struct sk_buff *skb, unsigned int at, unsigned int mtu)
{
	const bool v6 = carisma_skb_is_v6(skb);

	__skb_pull(skb, at);
	if (v6)
		ip6_update_pmtu(skb, net, htonl(mtu), 0, 0, sock_net_uid(net, NULL));
	else
		ipv4_update_pmtu(skb, net, mtu, 0, IPPROTO_IPIP);
	__skb_push(skb, at);
}
