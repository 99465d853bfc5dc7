// SPDX-License-Identifier: GPL-2.0
/* rhashtable, whose fast paths are inline, over struct carisma_node. */
#include <linux/jhash.h>
#include <linux/rhashtable.h>
#include <linux/unaligned.h>

#include "carisma_net.h"

/* A word of a connection's name, which has 9. */
static u32 carisma_tuple_word(const struct carisma_tuple *key, unsigned int word)
{
	return get_unaligned((const u32 *)key + word);
}

/* Of IPv4, whose addresses are v4-mapped, 3 words differ from connection to connection. */
static __always_inline u32 carisma_table_hash(const void *data, u32 len, u32 seed)
{
	const struct carisma_tuple *key = data;

	if (!carisma_tuple_word(key, 0) && !carisma_tuple_word(key, 1) &&
	    carisma_tuple_word(key, 2) == htonl(0xffff))
		return jhash_3words(carisma_tuple_word(key, 3), carisma_tuple_word(key, 7),
				    carisma_tuple_word(key, 8), seed);
	return jhash(data, sizeof(*key), seed);
}

/* Ports, local address, client's. */
static __always_inline int carisma_table_cmp(struct rhashtable_compare_arg *arg, const void *object)
{
	const struct carisma_tuple *key = &((const struct carisma_node *)object)->key;
	const u64 *one = arg->key, *other = (const u64 *)key;
	int pair = sizeof(*key) / sizeof(u64);

	static_assert(sizeof(*key) == 4 * sizeof(u64) + sizeof(u32));
	if (carisma_tuple_word(arg->key, 8) != carisma_tuple_word(key, 8))
		return 1;
	while (pair--)
		if (get_unaligned(one + pair) != get_unaligned(other + pair))
			return 1;
	return 0;
}

static const struct rhashtable_params carisma_table_params = {
	.key_len = sizeof(struct carisma_tuple),
	.key_offset = offsetof(struct carisma_node, key),
	.head_offset = offsetof(struct carisma_node, head),
	.hashfn = carisma_table_hash,
	.obj_cmpfn = carisma_table_cmp,
	.automatic_shrinking = true,
};

int carisma_helper_table_init(struct rhashtable *table)
{
	return rhashtable_init(table, &carisma_table_params);
}

/* The caller holds the RCU read lock. */
struct carisma_node *carisma_helper_table_lookup(struct rhashtable *table, const struct carisma_tuple *key)
{
	return rhashtable_lookup(table, key, carisma_table_params);
}

int carisma_helper_table_insert(struct rhashtable *table, struct carisma_node *node)
{
	return rhashtable_lookup_insert_fast(table, &node->head, carisma_table_params);
}

int carisma_helper_table_remove(struct rhashtable *table, struct carisma_node *node)
{
	return rhashtable_remove_fast(table, &node->head, carisma_table_params);
}

unsigned int carisma_helper_table_len(const struct rhashtable *table)
{
	return atomic_read(&table->nelems);
}

void carisma_helper_node_init(struct carisma_node *node, void (*expired)(struct timer_list *))
{
	timer_setup(&node->ending.timer, expired, 0);
	refcount_set(&node->refs, 1);
}

void carisma_helper_node_get(struct carisma_node *node)
{
	refcount_inc(&node->refs);
}

bool carisma_helper_node_get_live(struct carisma_node *node)
{
	return refcount_inc_not_zero(&node->refs);
}

bool carisma_helper_node_put(struct carisma_node *node)
{
	return refcount_dec_and_test(&node->refs);
}

int carisma_helper_mod_timer_ms(struct timer_list *timer, unsigned int ms)
{
	return mod_timer(timer, jiffies + msecs_to_jiffies(ms));
}

bool carisma_helper_timer_is_armed(const struct timer_list *timer)
{
	return timer_pending(timer);
}
