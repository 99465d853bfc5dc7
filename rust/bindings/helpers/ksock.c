// SPDX-License-Identifier: GPL-2.0
/* The kernel's own sockets. */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/net.h>
#include <linux/tcp.h>
#include <linux/wait.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "carisma_net.h"

/*
 * An address as 16 bytes, IPv4 v4-mapped, to what bind and connect take; its length. The port is in
 * host order.
 */
static int carisma_sockaddr_set(struct sockaddr_storage *storage, const u8 *addr, u16 port)
{
	const struct in6_addr *in6 = (const struct in6_addr *)addr;
	struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)storage;
	struct sockaddr_in *sin = (struct sockaddr_in *)storage;

	memset(storage, 0, sizeof(*storage));
	if (ipv6_addr_v4mapped(in6)) {
		sin->sin_family = AF_INET;
		sin->sin_addr.s_addr = in6->s6_addr32[3];
		sin->sin_port = htons(port);
		return sizeof(*sin);
	}
	sin6->sin6_family = AF_INET6;
	sin6->sin6_addr = *in6;
	sin6->sin6_port = htons(port);
	return sizeof(*sin6);
}

/* Whether a connection that came in waits to be accepted. To ask costs less than to accept none. */
bool carisma_helper_ksock_has_child(const struct socket *sock)
{
	return !reqsk_queue_empty(&inet_csk(sock->sk)->icsk_accept_queue);
}

/* Bind to an address that the node need not have yet, or had a moment ago. */
int carisma_helper_ksock_bind(struct socket *sock, const u8 *addr, u16 port)
{
	struct sockaddr_storage storage;
	int len = carisma_sockaddr_set(&storage, addr, port);

	sock_set_reuseaddr(sock->sk);
	ip_sock_set_freebind(sock->sk);
	return kernel_bind(sock, (struct sockaddr_unsized *)&storage, len);
}

/* Begin to connect; -EINPROGRESS is the rule. */
int carisma_helper_ksock_connect(struct socket *sock, const u8 *addr, u16 port)
{
	struct sockaddr_storage storage;
	int len = carisma_sockaddr_set(&storage, addr, port);

	return kernel_connect(sock, (struct sockaddr_unsized *)&storage, len, O_NONBLOCK);
}

/*
 * What a control connection wants of TCP. Times in seconds, but the user timeout in milliseconds.
 */
void carisma_helper_ksock_tune(struct socket *sock, int idle, int interval, int probes,
			       int user_timeout)
{
	struct sock *sk = sock->sk;

	sk->sk_allocation = GFP_KERNEL;
	sk->sk_use_task_frag = false;
	tcp_sock_set_nodelay(sk);
	sock_set_keepalive(sk);
	tcp_sock_set_keepidle(sk, idle);
	tcp_sock_set_keepintvl(sk, interval);
	tcp_sock_set_keepcnt(sk, probes);
	tcp_sock_set_user_timeout(sk, user_timeout);
}

/*
 * Whether there is something to read of a connection, or it has an end or an error to tell of. To ask
 * costs less than to read nothing.
 */
bool carisma_helper_ksock_has_news(const struct socket *sock)
{
	const struct sock *sk = sock->sk;

	return tcp_epollin_ready(sk, 1) || READ_ONCE(sk->sk_err) || READ_ONCE(sk->sk_shutdown) ||
	       READ_ONCE(sk->sk_state) != TCP_ESTABLISHED;
}

int carisma_helper_ksock_recv(struct socket *sock, void *data, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	struct kvec vec = { .iov_base = data, .iov_len = len };

	return kernel_recvmsg(sock, &msg, &vec, 1, len, msg.msg_flags);
}

/* Drop what was received; how much, 0 at the end of the stream. */
int carisma_helper_ksock_drain(struct socket *sock, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_TRUNC };
	struct kvec vec = {};

	return kernel_recvmsg(sock, &msg, &vec, 0, len, msg.msg_flags);
}

int carisma_helper_ksock_send(struct socket *sock, const void *data, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	struct kvec vec = { .iov_base = (void *)data, .iov_len = len };

	return kernel_sendmsg(sock, &msg, &vec, 1, len);
}

struct sock *carisma_helper_ksock_sk(const struct socket *sock)
{
	return sock->sk;
}

static int carisma_bell_wake(struct wait_queue_entry *entry, unsigned int mode, int flags,
			     void *key)
{
	complete(entry->private);
	return 0;
}

/*
 * Ring the bell whenever the socket wakes its waiters: data, room, a connection, a change of state.
 */
void carisma_helper_ksock_watch(struct socket *sock, struct wait_queue_entry *entry,
				struct completion *bell)
{
	init_waitqueue_func_entry(entry, carisma_bell_wake);
	entry->private = bell;
	add_wait_queue(&sock->wq.wait, entry);
}

void carisma_helper_ksock_unwatch(struct socket *sock, struct wait_queue_entry *entry)
{
	remove_wait_queue(&sock->wq.wait, entry);
}
