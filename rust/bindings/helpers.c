// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's macros and inline functions as functions that Rust can call.
 * In Rust they lose the prefix. One line of C each: logic belongs to Rust.
 */

#include "bindings_helper.h"

struct iphdr *carisma_helper_ip_hdr(const struct sk_buff *skb)
{
	return ip_hdr(skb);
}

struct tcphdr *carisma_helper_tcp_hdr(const struct sk_buff *skb)
{
	return tcp_hdr(skb);
}

struct tcp_sock *carisma_helper_tcp_sk(struct sock *sk)
{
	return tcp_sk(sk);
}

struct inet_connection_sock *carisma_helper_inet_csk(struct sock *sk)
{
	return inet_csk(sk);
}

void *carisma_helper_net_generic(const struct net *net, unsigned int id)
{
	return net_generic(net, id);
}
