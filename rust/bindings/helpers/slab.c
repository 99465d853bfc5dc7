// SPDX-License-Identifier: GPL-2.0
/* Slab caches. */
#include <linux/slab.h>

struct kmem_cache *carisma_helper_slab_create(const char *name, unsigned int size, unsigned int align)
{
	return kmem_cache_create(name, size, align, 0, NULL);
}

void *carisma_helper_slab_alloc(struct kmem_cache *cache)
{
	return kmem_cache_alloc(cache, GFP_ATOMIC);
}
