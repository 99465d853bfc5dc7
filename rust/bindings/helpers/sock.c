// SPDX-License-Identifier: GPL-2.0
/* Sockets of TCP: references, locks, identity. */
#include <linux/tracepoint.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/sock.h>

#include "carisma_net.h"

struct net *carisma_helper_sock_net(const struct sock *sk)
{
	return sock_net(sk);
}

void carisma_helper_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void carisma_helper_sock_put(struct sock *sk)
{
	sock_put(sk);
}

void carisma_helper_lock_sock(struct sock *sk)
{
	lock_sock(sk);
}

int carisma_helper_sock_state(const struct sock *sk)
{
	return inet_sk_state_load(sk);
}

bool carisma_helper_sock_is_tcp(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_TCP && (sk->sk_family == AF_INET || sk->sk_family == AF_INET6);
}

bool carisma_helper_sock_is_inet6(const struct sock *sk)
{
	return sk->sk_family == AF_INET6;
}

bool carisma_helper_sock_is_v6only(const struct sock *sk)
{
	return ipv6_only_sock(sk);
}

bool carisma_helper_sock_is_mptcp(const struct sock *sk)
{
	return sk_is_mptcp(sk);
}

/* Whether no file leads to the socket: one of the kernel's own. The socket is locked. */
bool carisma_helper_sock_is_kernel(const struct sock *sk)
{
	return !sk->sk_socket || !sk->sk_socket->file;
}

int carisma_helper_sock_err(const struct sock *sk)
{
	return READ_ONCE(sk->sk_err);
}

/*
 * The port that the socket is bound to, host order. A socket that has just been closed has lost it.
 */
u16 carisma_helper_sock_num(const struct sock *sk)
{
	return inet_sk(sk)->inet_num;
}

/*
 * The ends of the socket's connection; of a listener, its own address, and nothing as the client.
 */
void carisma_helper_sock_tuple(const struct sock *sk, struct carisma_tuple *tuple)
{
	struct in6_addr client, local;

	if (sk->sk_family == AF_INET6) {
		client = sk->sk_v6_daddr;
		local = sk->sk_v6_rcv_saddr;
		carisma_set_link(client.s6_addr, READ_ONCE(sk->sk_bound_dev_if));
	} else {
		ipv6_addr_set_v4mapped(sk->sk_daddr, &client);
		ipv6_addr_set_v4mapped(sk->sk_rcv_saddr, &local);
	}
	memcpy(tuple->client, &client, sizeof(tuple->client));
	memcpy(tuple->local, &local, sizeof(tuple->local));
	memcpy(tuple->client_port, &sk->sk_dport, sizeof(tuple->client_port));
	memcpy(tuple->local_port, &inet_sk(sk)->inet_sport, sizeof(tuple->local_port));
}

/* Wait until whoever works on the socket in softirq context has let go of it. */
void carisma_helper_sock_barrier(struct sock *sk)
{
	local_bh_disable();
	bh_lock_sock(sk);
	bh_unlock_sock(sk);
	local_bh_enable();
}

void carisma_helper_tracepoint_synchronize_unregister(void)
{
	tracepoint_synchronize_unregister();
}
