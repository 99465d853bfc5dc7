// SPDX-License-Identifier: GPL-2.0
/*
 * Listeners, their requests and their children. What each of these does to TCP is argued in
 * rust/net/listener.rs.
 */
#include <linux/netdevice.h>
#include <linux/net.h>
#include <net/inet_common.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/mptcp.h>
#include <net/tcp.h>

#include "carisma_net.h"

#if !IS_ENABLED(CONFIG_MPTCP)
#error "CONFIG_MPTCP is needed: rsk_drop_req() keeps a child out of the accept queue"
#endif

/* What of a socket we replace. The socket is locked. */
void carisma_helper_sock_ops_get(struct sock *sk, struct carisma_sock_ops *ops)
{
	ops->af_ops = READ_ONCE(inet_csk(sk)->icsk_af_ops);
	ops->data_ready = READ_ONCE(sk->sk_data_ready);
	ops->ulp = READ_ONCE(inet_csk(sk)->icsk_ulp_ops);
}

/*
 * Replace each that is as in "from" by that of "to"; whether all three were. The socket is locked. The
 * order matters to who copies it meanwhile.
 */
bool carisma_helper_sock_ops_replace(struct sock *sk, const struct carisma_sock_ops *from,
				     const struct carisma_sock_ops *to)
{
	struct inet_connection_sock *icsk = inet_csk(sk);
	int n = 0;

	if (sk->sk_data_ready == from->data_ready && ++n)
		WRITE_ONCE(sk->sk_data_ready, to->data_ready);
	smp_wmb();
	if (icsk->icsk_af_ops == from->af_ops && ++n)
		WRITE_ONCE(icsk->icsk_af_ops, to->af_ops);
	smp_wmb();
	if (icsk->icsk_ulp_ops == from->ulp && ++n)
		WRITE_ONCE(icsk->icsk_ulp_ops, to->ulp);
	return n == 3;
}

bool carisma_helper_acceptq_is_empty(const struct sock *sk)
{
	return reqsk_queue_empty(&inet_csk(sk)->icsk_accept_queue);
}

bool carisma_helper_acceptq_is_full(const struct sock *sk)
{
	return sk_acceptq_is_full(sk);
}

/* Make no child, and let go of the route that was found for it, as the stock syn_recv_sock does at a full queue. */
void carisma_helper_acceptq_overflow(const struct sock *sk, struct dst_entry *dst)
{
	NET_INC_STATS(sock_net(sk), LINUX_MIB_LISTENOVERFLOWS);
	dst_release(dst);
	tcp_listendrop(sk);
}

bool carisma_helper_skb_is_syn(const struct sk_buff *skb)
{
	return tcp_hdr(skb)->syn;
}

struct sock *carisma_helper_reqsk_listener(const struct request_sock *req)
{
	return req->rsk_listener;
}

struct sock *carisma_helper_reqsk_child(const struct request_sock *req)
{
	return req->sk;
}

/*
 * Let TCP know the round trip to the client, as tcp_rtt_estimator() and tcp_set_rto() would for a first
 * sample. It does not measure it by the handshake of a child that is withheld (tcp_check_req()), but by
 * the handshake's timestamps, if there are any, and if it knows nothing yet. The child is locked.
 */
void carisma_helper_reqsk_set_rtt(const struct request_sock *req, u32 rtt_us)
{
	struct sock *sk = req->sk;
	struct tcp_sock *tp = tcp_sk(sk);

	tp->srtt_us = rtt_us << 3;
	tp->mdev_us = rtt_us << 1;
	tp->rttvar_us = max(tp->mdev_us, tcp_rto_min_us(sk));
	tp->mdev_max_us = tp->rttvar_us;
	tp->rtt_seq = tp->snd_nxt;
	minmax_reset(&tp->rtt_min, tcp_jiffies32, rtt_us);
	inet_csk(sk)->icsk_rto = min(__tcp_set_rto(tp), tcp_rto_max(sk));
}

/*
 * Keep the request, whose child has just been made and is still locked, and let rsk_drop_req() say
 * that the child is not to be queued. Its timer is stopped first: a SYN-ACK that it sent now would
 * be built as MPTCP's.
 */
void carisma_helper_reqsk_withhold(struct request_sock *req, struct sock *child,
				   const struct sk_buff *skb)
{
	refcount_inc(&req->rsk_refcnt);
	if (timer_delete_sync(&req->rsk_timer))
		refcount_dec(&req->rsk_refcnt);
	sock_rps_save_rxhash(child, skb);
	req->sk = child;
	req->dl_next = NULL;
	tcp_rsk(req)->is_mptcp = true;
	tcp_rsk(req)->drop_req = true;
}

/*
 * The same for a request that TCP is about to free, or that belongs to another listener than "sk",
 * which has made the child: what is kept is a copy that belongs to "sk". "listed" says that TCP's
 * tables have the request. NULL without memory, or if the listener is going; then nothing was done.
 * As inet_reqsk_clone() does it, but what the request has allocated stays with the original, as the
 * child has its own by now.
 */
struct request_sock *carisma_helper_reqsk_withhold_copy(struct request_sock *req,
							const struct sock *sk, struct sock *child,
							const struct sk_buff *skb, bool listed)
{
	struct sock *listener = (struct sock *)sk, *from = req_to_sk(req), *to;
	struct request_sock *copy;

	copy = kmem_cache_alloc(req->rsk_ops->slab, GFP_ATOMIC | __GFP_NOWARN);
	if (!copy)
		return NULL;
	if (!refcount_inc_not_zero(&listener->sk_refcnt)) {
		kmem_cache_free(req->rsk_ops->slab, copy);
		return NULL;
	}
	to = req_to_sk(copy);
	memcpy(to, from, offsetof(struct sock, sk_dontcopy_begin));
	unsafe_memcpy(&to->sk_dontcopy_end, &from->sk_dontcopy_end,
		      req->rsk_ops->obj_size - offsetof(struct sock, sk_dontcopy_end),
		      /* The slab's objects have that size. */);
	sk_node_init(&to->sk_node);
	copy->rsk_listener = listener;
	copy->saved_syn = NULL;
	inet_rsk(copy)->ireq_opt = NULL;
#if IS_ENABLED(CONFIG_IPV6)
	inet_rsk(copy)->ipv6_opt = NULL;
	inet_rsk(copy)->pktopts = NULL;
#endif
	copy->sk = child;
	/* Until something is linked behind it. */
	copy->dl_next = req;
	refcount_set(&copy->rsk_refcnt, 1);
	sock_rps_save_rxhash(child, skb);
	/* No other has a timer; the caller has a reference as well. */
	if (listed && timer_delete_sync(&req->rsk_timer))
		refcount_dec(&req->rsk_refcnt);
	tcp_rsk(req)->is_mptcp = true;
	tcp_rsk(req)->drop_req = true;
	return copy;
}

static void carisma_reqsk_unmark(struct request_sock *req)
{
	tcp_rsk(req)->is_mptcp = false;
	tcp_rsk(req)->drop_req = false;
}

/* Undo either, before TCP has seen its effect. */
void carisma_helper_reqsk_unhold(struct request_sock *req)
{
	struct request_sock *original = req->dl_next;

	carisma_reqsk_unmark(original ?: req);
	req->sk = NULL;
	if (original)
		sock_gen_put(req_to_sk(req));
	else
		refcount_dec(&req->rsk_refcnt);
}

/*
 * As inet_csk_reqsk_queue_add() does it; false if nobody listens any more. The reference to the
 * request goes to the queue.
 */
bool carisma_helper_acceptq_append(struct request_sock *req)
{
	struct sock *sk = req->rsk_listener;
	struct request_sock_queue *queue = &inet_csk(sk)->icsk_accept_queue;
	bool listening;

	carisma_reqsk_unmark(req);
	spin_lock_bh(&queue->rskq_lock);
	listening = sk->sk_state == TCP_LISTEN;
	if (listening) {
		req->dl_next = NULL;
		if (!queue->rskq_accept_head)
			WRITE_ONCE(queue->rskq_accept_head, req);
		else
			queue->rskq_accept_tail->dl_next = req;
		queue->rskq_accept_tail = req;
		sk_acceptq_added(sk);
	}
	spin_unlock_bh(&queue->rskq_lock);
	return listening;
}

/*
 * Close the child as a process with SO_LINGER of 0 would, and let go of the request. Process
 * context.
 */
void carisma_helper_reqsk_discard(struct request_sock *req)
{
	/* TCP, which may still be at work on the child, looks at the mark under its lock. */
	sock_no_linger(req->sk);
	carisma_reqsk_unmark(req);
	tcp_close(req->sk, 0);
	req->sk = NULL;
	sock_gen_put(req_to_sk(req));
}

/*
 * Make the child a socket of the kernel's own, as accept() does it for a process, and let go of the
 * request. "sock" is a socket without a protocol yet. Process context.
 */
void carisma_helper_reqsk_accept(struct request_sock *req, struct socket *sock)
{
	struct sock *sk = req->sk;

	inet_init_csk_locks(sk);
	sock->ops = sk->sk_family == AF_INET6 ? &inet6_stream_ops : &inet_stream_ops;
	/* TCP may still be at work on the handshake's last segment, and looks at the mark then. */
	lock_sock(sk);
	carisma_reqsk_unmark(req);
	req->sk = NULL;
	__inet_accept(sock, sock, sk);
	release_sock(sk);
	sock_gen_put(req_to_sk(req));
}

struct request_sock *carisma_helper_reqsk_next(const struct request_sock *req)
{
	return req->dl_next;
}

void carisma_helper_reqsk_set_next(struct request_sock *req, struct request_sock *next)
{
	req->dl_next = next;
}

unsigned int carisma_helper_lhash2_buckets(const struct net *net)
{
	return net->ipv4.tcp_death_row.hashinfo->lhash2_mask + 1;
}

/*
 * Up to "max" listeners of the namespace from a bucket of the listeners' table, leaving out the
 * first "skip", each held.
 */
unsigned int carisma_helper_lhash2_get(const struct net *net, unsigned int bucket,
				       unsigned int skip, struct sock **batch, unsigned int max)
{
	struct inet_hashinfo *hashinfo = net->ipv4.tcp_death_row.hashinfo;
	struct inet_listen_hashbucket *ilb = &hashinfo->lhash2[bucket];
	struct hlist_nulls_node *node;
	unsigned int n = 0;
	struct sock *sk;

	spin_lock(&ilb->lock);
	sk_nulls_for_each(sk, node, &ilb->nulls_head) {
		if (!net_eq(sock_net(sk), net))
			continue;
		if (skip) {
			skip--;
			continue;
		}
		if (n == max)
			break;
		sock_hold(sk);
		batch[n++] = sk;
	}
	spin_unlock(&ilb->lock);
	return n;
}
