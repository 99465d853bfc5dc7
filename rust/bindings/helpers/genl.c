// SPDX-License-Identifier: GPL-2.0
/* Generic netlink. */
#include <net/genetlink.h>

struct net *carisma_helper_genl_info_net(const struct genl_info *info)
{
	return genl_info_net(info);
}

/* The next attribute of a type behind "after", or the first. */
const struct nlattr *carisma_helper_genl_next_attr(const struct genl_info *info,
						   const struct nlattr *after, int type)
{
	const struct nlattr *pos;
	int rem;

	nlmsg_for_each_attr(pos, info->nlhdr, GENL_HDRLEN + info->family->hdrsize, rem) {
		if (after) {
			if (pos == after)
				after = NULL;
			continue;
		}
		if (nla_type(pos) == type)
			return pos;
	}
	return NULL;
}

struct net *carisma_helper_netlink_callback_net(const struct netlink_callback *cb)
{
	return sock_net(cb->skb->sk);
}

struct sk_buff *carisma_helper_genlmsg_new(void)
{
	return genlmsg_new(GENLMSG_DEFAULT_SIZE, GFP_KERNEL);
}

void carisma_helper_nlmsg_free(struct sk_buff *skb)
{
	nlmsg_free(skb);
}

void carisma_helper_genlmsg_end(struct sk_buff *skb, void *header)
{
	genlmsg_end(skb, header);
}

void carisma_helper_genlmsg_cancel(struct sk_buff *skb, void *header)
{
	genlmsg_cancel(skb, header);
}

void carisma_helper_genl_dump_check_consistent(struct netlink_callback *cb, void *header)
{
	genl_dump_check_consistent(cb, header);
}

int carisma_helper_genlmsg_reply(struct sk_buff *skb, struct genl_info *info)
{
	return genlmsg_reply(skb, info);
}
