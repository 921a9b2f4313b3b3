/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/batmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint32_t batmap_checksum(const uint8_t *map, size_t length, bool signed_bytes)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += signed_bytes ? (uint32_t)(int32_t)(int8_t)map[i] : map[i];
	return ~sum;
}

int batmap_load(struct store *store, uint64_t header_offset, uint64_t offset, size_t length, struct batmap **ret)
{
	struct batmap *b = malloc(sizeof(*b) + length);
	int rc;

	if (!b)
		return -ENOMEM;
	b->header_offset = header_offset;
	b->offset = offset;
	b->length = length;
	b->dirty = false;
	rc = store->ops->read(store, &b->header, sizeof(b->header), header_offset);
	if (rc == 0)
		rc = store->ops->read(store, b->bits, length, offset);
	if (rc) {
		free(b);
		return rc;
	}
	b->signed_sum = be32_get(b->header.checksum) != batmap_checksum(b->bits, length, false);
	*ret = b;
	return 0;
}

void batmap_clear(struct batmap *b, uint32_t block)
{
	uint8_t bit = (uint8_t)(0x80 >> (block % 8));

	if (b->bits[block / 8] & bit) {
		b->bits[block / 8] &= (uint8_t)~bit;
		b->dirty = true;
	}
}

struct batmap *batmap_copy(const struct batmap *b)
{
	struct batmap *copy = malloc(sizeof(*b) + b->length);

	if (copy) {
		memcpy(copy, b, sizeof(*b) + b->length);
		copy->header.checksum = be32_make(batmap_checksum(b->bits, b->length, b->signed_sum));
	}
	return copy;
}

int batmap_write(const struct batmap *b, struct store *store)
{
	int rc = store->ops->write(store, b->bits, b->length, b->offset);

	return rc ? rc : store->ops->write(store, &b->header, sizeof(b->header), b->header_offset);
}
