// SPDX-License-Identifier: GPL-2.0
/*
 * How long a look-up in BTCP's table of flows takes, with few flows and with many, and how many of them
 * a growing table moves at a time.
 *
 * It is the table itself (rust/bindings/helpers/table.c), of nodes without a flow behind them. To load
 * this is to measure; it then refuses to stay.
 */
#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/vmalloc.h>

#include "../../../rust/bindings/helpers/table.c"

#define FEW 1000
#define MANY 1000000
#define LOOKUPS 1000

static struct rhashtable table;
static struct carisma_node *nodes;
static unsigned int longest;

/* Clients of some networks, with ports of their own, at one service. */
static void name_it(struct carisma_tuple *key, u32 number)
{
	const __be32 client = htonl(0x0a000000 + number / 50000), local = htonl(0x0a00000b);
	const __be16 client_port = htons(10000 + number % 50000), local_port = htons(80);

	memset(key, 0, sizeof(*key));
	key->client[10] = key->client[11] = key->local[10] = key->local[11] = 0xff;
	memcpy(key->client + 12, &client, 4);
	memcpy(key->local + 12, &local, 4);
	memcpy(key->client_port, &client_port, 2);
	memcpy(key->local_port, &local_port, 2);
}

/* The table moves its entries a chain at a time. */
static void look_for_longest(void)
{
	const struct bucket_table *buckets;
	struct rhash_head *at;
	unsigned int i;

	rcu_read_lock();
	buckets = rht_dereference_rcu(table.tbl, &table);
	for (i = 0; i < buckets->size; i++) {
		unsigned int length = 0;

		rht_for_each_rcu(at, buckets, i)
			length++;
		longest = max(longest, length);
	}
	rcu_read_unlock();
}

static int fill(u32 from, u32 to)
{
	for (; from < to; from++) {
		int err;

		name_it(&nodes[from].key, from);
		err = carisma_helper_table_insert(&table, &nodes[from]);
		if (err)
			return err;
		/* As full as a table gets before it grows. */
		if (is_power_of_2(from + 2) || is_power_of_2((from + 2) / 3))
			look_for_longest();
		if (from % 64 == 0)
			cond_resched();
	}
	/* Until it has grown. */
	flush_work(&table.run_work);
	return 0;
}

static u64 look_up(u32 count)
{
	u64 begin, took = 0;
	u32 i, found = 0;

	for (i = 0; i < LOOKUPS; i++) {
		struct carisma_tuple key;

		name_it(&key, get_random_u32_below(count));
		local_bh_disable();
		rcu_read_lock();
		begin = ktime_get_ns();
		found += !!carisma_helper_table_lookup(&table, &key);
		took += ktime_get_ns() - begin;
		rcu_read_unlock();
		local_bh_enable();
	}
	return found == LOOKUPS ? took : 0;
}

/* What looking at the clock takes. */
static u64 look_at_clock(void)
{
	u64 begin, took = 0;
	u32 i;

	for (i = 0; i < LOOKUPS; i++) {
		begin = ktime_get_ns();
		took += ktime_get_ns() - begin;
	}
	return took;
}

static int __init lookup_init(void)
{
	u64 few, many, clock;
	int err = -ENOMEM;

	nodes = vzalloc(array_size(MANY, sizeof(*nodes)));
	if (!nodes)
		return err;
	err = carisma_helper_table_init(&table);
	if (err)
		goto free;
	err = fill(0, FEW);
	if (err)
		goto destroy;
	few = look_up(FEW);
	err = fill(FEW, MANY);
	if (err)
		goto destroy;
	many = look_up(MANY);
	clock = look_at_clock();
	/* Picoseconds, as there are 1000. */
	pr_info("lookup: few %llu many %llu longest %u\n", few - clock, many - clock, longest);
	err = -ECANCELED;
destroy:
	rhashtable_destroy(&table);
free:
	vfree(nodes);
	return err;
}
module_init(lookup_init);

MODULE_DESCRIPTION("How long a look-up in CARISMA's table of flows takes");
MODULE_LICENSE("GPL");
