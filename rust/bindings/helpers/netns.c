// SPDX-License-Identifier: GPL-2.0
/* Network namespaces, RCU pointers and bottom halves. */
#include <linux/bottom_half.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>

void *carisma_helper_pernet_state(const struct net *net, unsigned int id)
{
	return *(void **)net_generic(net, id);
}

void carisma_helper_pernet_state_set(const struct net *net, unsigned int id, void *value)
{
	*(void **)net_generic(net, id) = value;
}

/* Call back for every namespace; none comes or goes meanwhile. */
void carisma_helper_for_each_net(void (*call)(struct net *net, void *data), void *data)
{
	struct net *net;

	down_read(&net_rwsem);
	for_each_net(net)
		call(net, data);
	up_read(&net_rwsem);
}

bool carisma_helper_softirqs_are_off(void)
{
	return softirq_count();
}

void carisma_helper_local_bh_disable(void)
{
	local_bh_disable();
}

void carisma_helper_local_bh_enable(void)
{
	local_bh_enable();
}

u64 carisma_helper_now_ns(void)
{
	return ktime_get_ns();
}

unsigned int carisma_helper_coarse_ms(void)
{
	return (unsigned int)(ktime_get_coarse_ns() / NSEC_PER_MSEC);
}

unsigned int carisma_helper_uptime_tenths(void)
{
	return (u32)(ktime_get_coarse_ns() / (NSEC_PER_SEC / 10));
}

unsigned int carisma_helper_wall_ms(void)
{
	struct timespec64 now;

	ktime_get_coarse_real_ts64(&now);
	return (u32)now.tv_sec * MSEC_PER_SEC + now.tv_nsec / NSEC_PER_MSEC;
}

bool carisma_helper_try_module_get(struct module *module)
{
	return try_module_get(module);
}

void carisma_helper_module_put(struct module *module)
{
	module_put(module);
}
