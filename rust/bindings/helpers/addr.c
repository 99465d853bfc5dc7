// SPDX-License-Identifier: GPL-2.0
/* Addresses as Rust has them: 16 bytes, IPv4 as v4-mapped. */
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <linux/unaligned.h>
#include <net/dst.h>
#include <net/ipv6.h>

#include "carisma_net.h"

/* Every packet passes some of these: they are inlined, and keep no array on the stack, which would be guarded. */
static __always_inline struct in6_addr carisma_in6(const __u8 *addr)
{
	return get_unaligned((const struct in6_addr *)addr);
}

static __always_inline bool carisma_is_v4(const __u8 *addr)
{
	return !get_unaligned((const __u64 *)addr) &&
	       get_unaligned((const __be32 *)(addr + 8)) == htonl(0xffff);
}

/* The IPv4 address in one that is v4-mapped. */
static __always_inline __be32 carisma_in4(const __u8 *addr)
{
	return get_unaligned((const __be32 *)(addr + 12));
}

static __always_inline void carisma_set_in4(__u8 *addr, __be32 in4)
{
	put_unaligned(0, (__u64 *)addr);
	put_unaligned(htonl(0xffff), (__be32 *)(addr + 8));
	put_unaligned(in4, (__be32 *)(addr + 12));
}

static __always_inline __be16 carisma_port(const __u8 *port)
{
	__be16 word;

	memcpy(&word, port, sizeof(word));
	return word;
}

/* ipv6_addr_type() would call out of line, for addresses of IPv4 as well. */
static bool carisma_is_link_local(const struct in6_addr *addr)
{
	return (addr->s6_addr32[0] & htonl(0xffc00000)) == htonl(0xfe800000);
}

/* Put the link of a link-local address into it, as rust/core/src/tuple.rs has it; false if that is too big. */
static bool carisma_set_link(__u8 *addr, int link)
{
	struct in6_addr in6 = carisma_in6(addr);

	if (!carisma_is_link_local(&in6))
		return true;
	addr[2] = link >> 8;
	addr[3] = link;
	return link > 0 && link <= U16_MAX;
}

/* The link of such an address, and the address without; 0 of any other. */
static int carisma_take_link(struct in6_addr *addr)
{
	int link = 0;

	if (carisma_is_link_local(addr)) {
		link = ntohs(addr->s6_addr16[1]);
		addr->s6_addr16[1] = 0;
	}
	return link;
}

/* The number of the device that a packet came by, or will go by. */
static int carisma_skb_link(const struct sk_buff *skb)
{
	if (skb->skb_iif)
		return skb->skb_iif;
	return skb_dst(skb) ? skb_dst(skb)->dev->ifindex : 0;
}

/* Whether the packet is one of IPv6; any other is one of IPv4. */
static bool carisma_skb_is_v6(const struct sk_buff *skb)
{
	return ip_hdr(skb)->version == 6;
}
