/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/compact.h"

#include <errno.h>
#include <string.h>

#include "vhd/move-block.h"

/* Less is not worth a hole. */
#define PUNCH_MIN_BYTES 4096u

/* Blocks that looked as if they could go; they are looked at once more when no write can come between. */
struct candidates {
	struct claim claims[MOVE_BATCH];
	unsigned count;
};

enum verdict {
	KEEP,
	DROP,  /* nothing is lost without the block */
	PUNCH, /* all that it shows is zeros, over data below: it must stay, but needs no space */
};

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t block_start(const struct compact *c, uint32_t block)
{
	return (uint64_t)block << c->leaf->layer->block_shift;
}

static uint64_t block_end(const struct compact *c, uint32_t block)
{
	return min64(block_start(c, block) + c->leaf->layer->block_size, atomic_load(&c->image->size));
}

static bool below_has(const struct compact *c, uint32_t block)
{
	return stack_holds_below(image_stack(c->image), c->leaf, block);
}

static bool is_zero(const struct compact *c, const uint8_t *bytes, size_t length)
{
	return memcmp(bytes, c->image->zeros, length) == 0;
}

/* Whether no sector of the block's bitmap is set: it shows nothing of its own. */
static bool shows_nothing(const struct compact *c, const struct block_bits *bits)
{
	return !bits->full && is_zero(c, bits->bytes, c->leaf->layer->bitmap_bytes);
}

/* 0, and what may be done with the block; -errno. Of now, if the block is claimed. */
static int judge_zeros(struct compact *c, uint32_t block, uint32_t *ret_slot, enum verdict *ret)
{
	const struct layer *layer = c->leaf->layer;
	struct block_bits bits = {.bytes = c->bits};
	uint32_t piece = layer->block_size < COMPACT_PIECE ? layer->block_size : COMPACT_PIECE;
	int rc = block_bits_get(c->image, c->leaf, block, &bits, c->err);

	*ret = KEEP;
	*ret_slot = bits.slot;
	if (rc)
		return rc < 0 ? rc : 0;
	if (shows_nothing(c, &bits)) {
		*ret = DROP;
		return 0;
	}
	for (uint32_t into = 0; into < layer->block_size; into += piece) {
		rc = block_read_piece(c->leaf, &bits, c->buffer, piece, into);
		if (rc)
			return block_err(c->leaf, block, bits.slot, "read", rc, c->err);
		if (!is_zero(c, c->buffer, piece))
			return 0;
	}
	*ret = below_has(c, block) ? PUNCH : DROP;
	return 0;
}

static int drop_claimed(struct compact *c, uint32_t block)
{
	const struct writer *w = c->leaf->writer;
	int rc;

	pthread_mutex_lock(&c->image->lock);
	rc = writer_drop_block(c->image, c->leaf->writer, block);
	pthread_mutex_unlock(&c->image->lock);
	if (rc)
		return err_set(c->err, rc, "%s: no memory to give a block back", w->layer->layer->path);
	c->result->freed_blocks++;
	return 0;
}

static int punch_claimed(struct compact *c, uint32_t block, uint32_t slot, uint64_t into, uint64_t length)
{
	const struct layer *layer = c->leaf->layer;
	int rc = layer->store->ops->punch(layer->store, slot_payload(layer, slot) + into, length);

	return rc ? block_err(c->leaf, block, slot, "punched", rc, c->err) : 0;
}

static int settle_claimed(struct compact *c, const struct claim *claim)
{
	enum verdict verdict;
	uint32_t slot;
	int rc = judge_zeros(c, claim->block, &slot, &verdict);

	if (rc || verdict == KEEP)
		return rc;
	if (verdict == DROP)
		return drop_claimed(c, claim->block);
	return punch_claimed(c, claim->block, slot, 0, c->leaf->layer->block_size);
}

/* Claims the candidates as soon as that does not keep their writers waiting. 0 or -ECANCELED. */
static int candidates_claim(struct compact *c, struct candidates *k)
{
	unsigned limit_ms = CLAIM_LIMIT_FIRST_MS;
	int rc;

	while (!claims_take(c->image, c->leaf, k->claims, k->count, limit_ms)) {
		rc = claim_wait(c->image, c->options->job);
		if (rc)
			return err_set(c->err, rc, "%s: cancelled", c->leaf->layer->path);
		limit_ms = claim_limit_next(limit_ms);
	}
	return 0;
}

static int candidates_settle(struct compact *c, struct candidates *k)
{
	int rc = k->count > 0 ? candidates_claim(c, k) : 0;

	for (unsigned i = 0; i < k->count; i++) {
		if (k->claims[i].held && rc == 0)
			rc = settle_claimed(c, &k->claims[i]);
		claim_drop(c->image, c->leaf, &k->claims[i]);
	}
	k->count = 0;
	return rc;
}

static bool candidates_are_full(const struct compact *c, const struct candidates *k)
{
	return k->count == MOVE_BATCH || (uint64_t)k->count * c->leaf->layer->block_size >= MOVE_BATCH_BYTES;
}

static int drop_zero_blocks(struct compact *c)
{
	const struct layer *layer = c->leaf->layer;
	struct candidates k = {.count = 0};
	int rc = 0;

	for (uint32_t b = 0; rc == 0 && b < layer->block_count; b++) {
		enum verdict verdict;
		uint32_t slot;

		if (atomic_load_explicit(&layer->bat[b], memory_order_relaxed) == VHD_BAT_UNALLOCATED)
			continue;
		rc = judge_zeros(c, b, &slot, &verdict);
		if (rc == 0 && verdict != KEEP)
			k.claims[k.count++] = (struct claim){.block = b, .slot = slot};
		if (rc == 0 && candidates_are_full(c, &k))
			rc = candidates_settle(c, &k);
		if (rc == 0)
			rc = compact_step(c, layer->block_size);
	}
	return rc ? rc : candidates_settle(c, &k);
}

/* --- what the file system on the disk does not use --- */

/* The first extent that ends behind `offset`; they are sorted. */
static size_t extent_find(const struct vhd_compact_options *o, uint64_t offset)
{
	size_t low = 0, high = o->unused_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (o->unused[mid].offset + o->unused[mid].length > offset)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static bool block_is_unused(const struct compact *c, uint32_t block)
{
	const struct vhd_compact_options *o = c->options;
	uint64_t at = block_start(c, block), end = block_end(c, block);

	for (size_t i = extent_find(o, at); i < o->unused_count && o->unused[i].offset <= at; i++) {
		if (o->unused[i].offset + o->unused[i].length > at)
			at = o->unused[i].offset + o->unused[i].length;
		if (at >= end)
			return true;
	}
	return false;
}

/* The unused parts of [from, end), whole sectors: each is punched at `to` plus its distance from `from`. */
static int punch_unused(struct compact *c, uint64_t from, uint64_t end, uint64_t to)
{
	const struct vhd_compact_options *o = c->options;
	struct store *store = c->leaf->layer->store;
	int rc = 0;

	for (size_t i = extent_find(o, from); rc == 0 && i < o->unused_count && o->unused[i].offset < end; i++) {
		uint64_t a = o->unused[i].offset, b = a + o->unused[i].length;

		a = a > from ? (a + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR : from;
		b = b < end ? b / VHD_SECTOR * VHD_SECTOR : end;
		if (b > a && b - a >= PUNCH_MIN_BYTES)
			rc = store->ops->punch(store, to + (a - from), b - a);
		if (rc)
			err_set(c->err, rc, "%s: %llu bytes at offset %llu cannot be punched: %s", c->leaf->layer->path,
			        (unsigned long long)(b - a), (unsigned long long)(to + (a - from)), strerror(-rc));
	}
	return rc;
}

static int drop_unused_block(struct compact *c, uint32_t block)
{
	uint32_t slot = atomic_load_explicit(&c->leaf->layer->bat[block], memory_order_relaxed);

	if (block_is_unused(c, block) && !below_has(c, block))
		return drop_claimed(c, block); /* nobody is there to claim it from */
	return punch_unused(c, block_start(c, block), block_end(c, block), slot_payload(c->leaf->layer, slot));
}

static bool block_has_unused(const struct compact *c, uint32_t block)
{
	size_t i = extent_find(c->options, block_start(c, block));

	return i < c->options->unused_count && c->options->unused[i].offset < block_end(c, block);
}

static int drop_unused(struct compact *c)
{
	const struct layer *layer = c->leaf->layer;
	int rc = 0;

	for (uint32_t b = 0; rc == 0 && b < layer->block_count; b++) {
		if (atomic_load_explicit(&layer->bat[b], memory_order_relaxed) == VHD_BAT_UNALLOCATED ||
		    !block_has_unused(c, b))
			continue;
		rc = drop_unused_block(c, b);
		if (rc == 0)
			rc = compact_step(c, 0);
	}
	return rc;
}

/* The list is sound, and nobody comes who could write where it says that nothing is. */
static int unused_begin(const struct compact *c)
{
	const struct vhd_compact_options *o = c->options;
	uint64_t size = atomic_load(&c->image->size), at = 0;

	for (size_t i = 0; i < o->unused_count; i++) {
		const struct vhd_extent *x = &o->unused[i];

		if (x->offset < at || x->offset > size || x->length > size - x->offset)
			return err_set(c->err, -EINVAL, "%s: the list of what is not used is not sorted, or reaches beyond the disk",
			               c->leaf->layer->path);
		at = x->offset + x->length;
	}
	if (upkeep_exclude_users(c->image, NULL))
		return err_set(c->err, -EINVAL,
		               "%s: what is not used on it can only be thrown away while nothing else reads or writes it",
		               c->leaf->layer->path);
	return 0;
}

int compact_zeros(struct compact *c)
{
	int rc = 0;

	if (c->options->unused_count > 0) {
		rc = unused_begin(c);
		if (rc == 0)
			rc = drop_unused(c);
	}
	if (rc == 0 && !c->options->keep_zeros)
		rc = drop_zero_blocks(c);
	return rc;
}

/* --- fixed disks --- */

/* Punches what of the buffer is zeros. */
static int punch_fixed_zeros(struct compact *c, uint64_t at, uint32_t length)
{
	struct store *store = c->leaf->layer->store;

	for (uint32_t from = 0; from < length; from += PUNCH_MIN_BYTES) {
		uint32_t to = from;
		int rc = 0;

		while (to + PUNCH_MIN_BYTES <= length && is_zero(c, c->buffer + to, PUNCH_MIN_BYTES))
			to += PUNCH_MIN_BYTES;
		if (to > from)
			rc = store->ops->punch(store, at + from, to - from);
		if (rc)
			return err_set(c->err, rc, "%s: %u bytes at offset %llu cannot be punched: %s", c->leaf->layer->path,
			               to - from, (unsigned long long)at + from, strerror(-rc));
		from = to;
	}
	return 0;
}

static int compact_fixed_piece(struct compact *c, uint64_t at, uint32_t length)
{
	struct store *store = c->leaf->layer->store;
	int rc = c->options->unused_count > 0 ? punch_unused(c, at, at + length, at) : 0;

	if (rc || c->options->keep_zeros)
		return rc;
	rc = store->ops->read(store, c->buffer, length, at);
	if (rc)
		return err_set(c->err, rc, "%s: %u bytes at offset %llu cannot be read: %s", c->leaf->layer->path, length,
		               (unsigned long long)at, strerror(-rc));
	return punch_fixed_zeros(c, at, length);
}

/* Writes to a fixed disk go straight to their place, and there is nothing by which they could be made to wait. */
int compact_fixed(struct compact *c)
{
	uint64_t size = c->leaf->layer->size;
	int rc;

	if (c->options->unused_count > 0)
		rc = unused_begin(c);
	else if ((rc = upkeep_exclude_users(c->image, NULL)))
		err_set(c->err, rc, "%s: a fixed disk can only be compacted while nothing else reads or writes it",
		        c->leaf->layer->path);
	c->total = size;
	job_total(c->options->job, size);
	for (uint64_t at = 0; rc == 0 && at < size; at += COMPACT_PIECE) {
		uint32_t length = (uint32_t)min64(COMPACT_PIECE, size - at);

		rc = compact_fixed_piece(c, at, length);
		if (rc == 0)
			rc = compact_step(c, length);
	}
	return rc;
}
