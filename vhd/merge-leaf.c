/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging a leaf that is in use. From the first step on, blocks that the leaf does not hold are written to its parent.
 * So the leaf gets no new ones, and each that it has is moved down once, whatever the guest does: the work is bounded by
 * what the leaf held at the start. A guest's write waits only while its own block is on its way.
 *
 * A block leaves the leaf in RAM when the parent has its data; on disk, only with a commit that has made the parent
 * durable before (commit.c). So a crash finds each sector in the leaf, as it was last flushed, or below, durable.
 */
#include "vhd/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/job.h"
#include "vhd/move-block.h"

#define READY_SLOTS 2u /* wanted in the parent before a block is claimed, so that its writers do not wait for space */

static int prepare_slots(void *arg)
{
	struct merge *m = arg;
	int rc;

	pthread_mutex_lock(&m->image->lock);
	rc = slots_prepare(m->image, m->target->writer);
	pthread_mutex_unlock(&m->image->lock);
	return rc;
}

static int want_slots(struct merge *m)
{
	const struct writer *w = m->target->writer;
	bool enough;
	int rc = 0;

	pthread_mutex_lock(&m->image->lock);
	enough = !layer_tables(m->target) || w->slots.ready.count >= READY_SLOTS ||
	         w->allocated == m->target->layer->block_count;
	pthread_mutex_unlock(&m->image->lock);
	if (!enough)
		rc = worker_call(m->image, prepare_slots, m);
	/* The block may need none. */
	return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG ? 0 : rc;
}

/* The leaf gives the block up: from now on it is the parent's. 0; 1: not while the disk is mapped (blk_map); -ENOMEM. */
static int drop(struct merge *m, struct image_layer *leaf, uint32_t block)
{
	int rc;

	pthread_mutex_lock(&m->image->lock);
	rc = m->image->maps > 0 ? 1 : writer_drop_block(m->image, leaf->writer, block);
	pthread_mutex_unlock(&m->image->lock);
	return rc < 0 ? err_set(m->err, rc, "no memory to move a block") : rc;
}

/* Not cancelled nor slowed down in the middle: whoever wants to write here waits. As drop. */
static int move_claimed(struct merge *m, struct image_layer *leaf, uint32_t block, uint64_t length)
{
	int rc = copier_copy(m->copier, m->stack, 0, 1, (uint64_t)block << leaf->layer->block_shift, length, m->err);

	if (rc == 0)
		rc = copier_wait(m->copier, m->err);
	return rc ? rc : drop(m, leaf, block);
}

static int cancelled(struct merge *m, const struct image_layer *leaf)
{
	return err_set(m->err, -ECANCELED, "%s: cancelled; what has been merged stays merged", leaf->layer->path);
}

/* `slot`: where the block is. Once given back, by a guest, it does not come anew. */
static int move_down(struct merge *m, struct image_layer *leaf, uint32_t block, uint32_t slot)
{
	uint64_t offset = (uint64_t)block << leaf->layer->block_shift;
	uint64_t size = atomic_load(&leaf->size), length = leaf->layer->block_size;
	struct claim claim = {.block = block, .slot = slot};
	unsigned limit_ms = CLAIM_LIMIT_FIRST_MS;
	int rc = want_slots(m);

	if (rc)
		return err_set(m->err, rc, "%s: making room in it failed: %s", m->target->layer->path, strerror(-rc));
	if (length > size - offset)
		length = size - offset;
	for (;;) {
		rc = 1;
		if (claims_take(m->image, leaf, &claim, 1, limit_ms)) {
			rc = claim.held ? move_claimed(m, leaf, block, length) : 0;
			claim_drop(m->image, leaf, &claim);
		}
		if (rc != 1)
			break;
		if (claim_wait(m->image, m->options->job))
			return cancelled(m, leaf);
		limit_ms = claim_limit_next(limit_ms);
	}
	return rc == 0 && job_step(m->options->job, length) ? cancelled(m, leaf) : rc;
}

static struct stack *stack_like(const struct stack *stack, bool write_through)
{
	struct stack *copy = stack_new(stack->count);

	if (copy) {
		memcpy(copy->layer, stack->layer, stack->count * sizeof(*copy->layer));
		copy->write_through = write_through;
	}
	return copy;
}

int merge_drain_leaf(struct merge *m)
{
	struct image_layer *leaf = m->stack->layer[0];
	const struct tables *t = layer_tables(leaf);
	int rc = merge_publish_take(m, stack_like(m->stack, true), true);

	for (uint32_t block = 0; rc == 0 && block < t->count; block++) {
		uint32_t slot = atomic_load(&t->bat[block]);

		if (slot != VHD_BAT_UNALLOCATED)
			rc = move_down(m, leaf, block, slot);
	}
	return rc;
}

int merge_stop_drain(struct merge *m)
{
	int rc = merge_publish_take(m, stack_like(m->stack, false), true);

	/* What parents hold may be remembered once no write to them is on its way; without memory for it, it need not be. */
	if (rc == 0)
		(void)merge_publish_take(m, stack_like(m->stack, false), false);
	return rc;
}
