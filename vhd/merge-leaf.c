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

/* The leaf gives the block up: from now on it is the parent's. */
static int drop(struct merge *m, struct image_layer *leaf, uint32_t block)
{
	int rc;

	pthread_mutex_lock(&m->image->lock);
	rc = writer_drop_block(m->image, leaf->writer, block);
	pthread_mutex_unlock(&m->image->lock);
	return rc;
}

static int move_down(struct merge *m, struct image_layer *leaf, uint32_t block)
{
	uint64_t offset = (uint64_t)block << leaf->layer->block_shift;
	uint64_t size = atomic_load(&leaf->size), length = leaf->layer->block_size;
	int rc = want_slots(m);

	if (rc)
		return err_set(m->err, rc, "%s: making room in it failed: %s", m->target->layer->path, strerror(-rc));
	if (length > size - offset)
		length = size - offset;
	block_claim(m->image, leaf, block);
	/* Not cancelled nor slowed down in the middle: whoever wants to write here waits. */
	rc = copier_copy(m->copier, m->stack, 0, 1, offset, length, m->err);
	if (rc == 0)
		rc = copier_wait(m->copier, m->err);
	if (rc == 0) {
		rc = drop(m, leaf, block);
		if (rc)
			err_set(m->err, rc, "no memory to move a block");
	}
	block_unclaim(m->image, leaf, block);
	if (rc == 0 && job_step(m->options->job, length))
		rc = err_set(m->err, -ECANCELED, "%s: cancelled; what has been merged stays merged", leaf->layer->path);
	return rc;
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
	int rc = merge_publish_take(m, stack_like(m->stack, true), true), end;

	for (uint32_t block = 0; rc == 0 && block < t->count; block++)
		if (atomic_load(&t->bat[block]) != VHD_BAT_UNALLOCATED)
			rc = move_down(m, leaf, block);
	if (rc == 0)
		return 0;
	/* New blocks go to the leaf again; what parents hold may be remembered once no write to them is on its way. */
	end = merge_publish_take(m, stack_like(m->stack, false), true);
	if (end == 0)
		end = merge_publish_take(m, stack_like(m->stack, false), false);
	return end && rc == -ECANCELED ? end : rc;
}
