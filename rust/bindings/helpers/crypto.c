// SPDX-License-Identifier: GPL-2.0
/* Hashes, and memory that held secrets. */
#include <linux/string.h>

#include <crypto/sha2.h>

void carisma_helper_hmac_sha256_init(struct hmac_sha256_ctx *ctx,
				     const struct hmac_sha256_key *key)
{
	hmac_sha256_init(ctx, key);
}

void carisma_helper_hmac_sha256_update(struct hmac_sha256_ctx *ctx, const u8 *data, size_t len)
{
	hmac_sha256_update(ctx, data, len);
}

void carisma_helper_memzero_explicit(void *at, size_t len)
{
	memzero_explicit(at, len);
}
