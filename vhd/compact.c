/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes a disk's file smaller while it is used: blocks of zeros are given back, the last blocks of the file move into
 * its lowest gaps, and the file is cut behind what is then the last one. Guests' new blocks go to the lowest gaps too
 * (slots_prepare_gaps), so that they are not in the way of the cut.
 */
#include "vhd/compact.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vhd/gaps.h"
#include "vhd/move-block.h"

/* Gaps made ready at a time, by one sync; as much at most waits to be punched behind the moves. */
#define READY_BYTES (32u << 20)
#define READY_SLOTS 256u

/* Cut off at a time: file systems keep writers of the file waiting for as long as that takes. */
#define CUT_BYTES (16u << 20)

/* What guests allocate behind the gaps while the first pass runs is for the others; they need not find an end. */
#define PASSES 3u

int compact_step(struct compact *c, uint64_t bytes)
{
	int rc = job_step(c->options->job, bytes);

	return rc ? err_set(c->err, rc, "%s: cancelled", c->leaf->layer->path) : 0;
}

static int flush(struct compact *c)
{
	int rc = worker_flush(c->image);

	return rc ? err_set(c->err, rc, "%s: what was changed cannot be made durable: %s", c->leaf->layer->path,
	                    strerror(-rc))
	          : 0;
}

/* Not for a guest's sake, but a disk that is mapped may stay so for long. */
static int wait_for_readers(struct compact *c)
{
	int rc = claim_wait(c->image, c->options->job);

	return rc ? err_set(c->err, rc, "%s: cancelled", c->leaf->layer->path) : 0;
}

/* --- in the worker thread --- */

struct gap_search {
	struct compact *compact;
	uint32_t *used, *gaps;
	size_t used_count;
	unsigned gap_count, want;
	bool tight;
};

static int call_punch(void *arg)
{
	struct compact *c = arg;

	slots_punch_now(c->image, c->leaf->writer);
	return 0;
}

static int call_list_used(void *arg)
{
	struct gap_search *g = arg;

	return slots_list_used(g->compact->image, g->compact->leaf->writer, &g->used, &g->used_count);
}

static int call_set_gaps(void *arg)
{
	struct gap_search *g = arg;

	slots_set_gaps(g->compact->leaf->writer, g->gaps, g->gap_count, g->tight);
	return 0;
}

static int call_prepare(void *arg)
{
	struct gap_search *g = arg;

	return slots_prepare_gaps(g->compact->image, g->compact->leaf->writer, g->want);
}

static int call_cut(void *arg)
{
	struct compact *c = arg;

	return slots_cut_back(c->image, c->leaf->writer, CUT_BYTES);
}

int compact_settle(struct compact *c)
{
	int rc = flush(c);

	if (rc == 0)
		rc = wait_for_readers(c);
	if (rc == 0)
		rc = worker_call(c->image, call_punch, c);
	return rc;
}

/* --- closing gaps --- */

struct placed {
	uint32_t block, slot;
};

static int last_first(const void *a, const void *b)
{
	const struct placed *x = a, *y = b;

	return (x->slot < y->slot) - (x->slot > y->slot);
}

static int no_memory(struct compact *c)
{
	return err_set(c->err, -ENOMEM, "%s: no memory to compact it", c->leaf->layer->path);
}

/* The blocks that have not been moved yet, the last of the file first. Allocated. */
static int blocks_list(struct compact *c, struct placed **ret, size_t *ret_count)
{
	const struct layer *layer = c->leaf->layer;
	struct placed *list = malloc(((size_t)layer->block_count + 1) * sizeof(*list));
	size_t n = 0;

	if (!list)
		return no_memory(c);
	for (uint32_t b = 0; b < layer->block_count; b++) {
		uint32_t slot = atomic_load_explicit(&layer->bat[b], memory_order_relaxed);

		if (slot != VHD_BAT_UNALLOCATED)
			list[n++] = (struct placed){b, slot};
	}
	qsort(list, n, sizeof(*list), last_first);
	*ret = list;
	*ret_count = n;
	return 0;
}

/*
 * Finds all gaps and makes them those that new blocks go to. Nobody may have been given any of them, not even to read:
 * see slots_list_used.
 */
static int gaps_seek(struct compact *c, uint32_t **ret, unsigned *ret_count)
{
	struct gap_search g = {.compact = c, .tight = !c->leaf->layer->payload_aligned};
	int rc = compact_settle(c);

	if (rc)
		return rc;
	rc = worker_call(c->image, call_list_used, &g);
	if (rc == 0)
		rc = gaps_between(c->leaf->layer, g.used, g.used_count, g.tight, &g.gaps, &g.gap_count);
	free(g.used);
	if (rc)
		return no_memory(c);
	rc = flush(c);
	if (rc == 0)
		rc = wait_for_readers(c);
	*ret = malloc((g.gap_count + 1) * sizeof(**ret));
	if (rc == 0 && !*ret)
		rc = no_memory(c);
	if (rc) {
		free(*ret);
		free(g.gaps);
		return rc;
	}
	*ret_count = g.gap_count;
	if (g.gap_count > 0)
		memcpy(*ret, g.gaps, g.gap_count * sizeof(**ret));
	return worker_call(c->image, call_set_gaps, &g); /* takes the gaps */
}

static int gaps_prepare(struct compact *c)
{
	struct gap_search g = {.compact = c};
	int rc = flush(c);

	if (rc)
		return rc;
	g.want = READY_BYTES / c->leaf->layer->block_size;
	g.want = g.want < 1 ? 1 : g.want < READY_SLOTS ? g.want : READY_SLOTS;
	rc = worker_call(c->image, call_prepare, &g);
	return rc ? err_set(c->err, rc, "%s: gaps cannot be made ready for blocks: %s", c->leaf->layer->path, strerror(-rc))
	          : 0;
}

static uint32_t take_below(struct compact *c, uint32_t limit)
{
	uint32_t slot;

	pthread_mutex_lock(&c->image->lock);
	slot = slots_take_below(c->leaf->writer, limit);
	pthread_mutex_unlock(&c->image->lock);
	return slot;
}

/* How many moves these gaps are good for: the last block into the first gap, and so on until they meet. */
static uint64_t moves_expected(const struct placed *blocks, size_t count, const uint32_t *gaps, unsigned gap_count)
{
	size_t n = 0;

	while (n < count && n < gap_count && gaps[n] < blocks[n].slot)
		n++;
	return n;
}

static bool is_moved(const struct compact *c, uint32_t block)
{
	return c->moved[block / 8] >> (block % 8) & 1;
}

static bool is_out_of_space(int rc)
{
	return rc == -ENOSPC || rc == -EDQUOT;
}

static int move_batch(struct compact *c, struct block_move *moves, unsigned count)
{
	uint64_t block_bytes = c->leaf->layer->block_size;
	int rc = blocks_move(c->image, c->leaf, moves, count, c->options->job, c->err);

	for (unsigned i = 0; i < count; i++) {
		if (!moves[i].moved)
			continue;
		c->moved[moves[i].block / 8] |= (uint8_t)(1u << (moves[i].block % 8));
		c->result->moved_blocks++;
	}
	return rc ? rc : compact_step(c, count * block_bytes);
}

struct pass {
	struct placed *blocks;
	size_t count, at;
	uint32_t *gaps;
	unsigned gap_count;
	bool settled; /* for want of space, and nothing has moved since */
};

/*
 * The next moves of the pass; 0 of them: it is over. A block may have been given back, or come anew elsewhere, since
 * it was listed; it is moved from where it is, and never up.
 */
static unsigned moves_choose(struct compact *c, struct pass *p, struct block_move *moves)
{
	const struct layer *layer = c->leaf->layer;
	unsigned n = 0;

	for (; p->at < p->count && n < MOVE_BATCH && (uint64_t)n * layer->block_size < MOVE_BATCH_BYTES; p->at++) {
		uint32_t block = p->blocks[p->at].block, to;
		uint32_t from = atomic_load_explicit(&layer->bat[block], memory_order_relaxed);

		if (from == VHD_BAT_UNALLOCATED)
			continue;
		if (is_moved(c, block))
			break;
		to = take_below(c, from);
		if (to == VHD_BAT_UNALLOCATED)
			break;
		moves[n++] = (struct block_move){.block = block, .to = to};
	}
	return n;
}

static int pass_run(struct compact *c, struct pass *p)
{
	struct block_move moves[MOVE_BATCH];
	int rc = 0;

	for (;;) {
		size_t at = p->at;
		unsigned n = moves_choose(c, p, moves);

		if (n == 0) {
			rc = gaps_prepare(c);
			if (rc)
				return rc;
			n = moves_choose(c, p, moves);
		}
		if (n == 0)
			return 0;
		rc = move_batch(c, moves, n);
		if (is_out_of_space(rc) && !p->settled) {
			/* What was moved takes space twice until its old place is punched. */
			p->settled = true;
			p->at = at;
			rc = compact_settle(c);
		} else if (rc == 0) {
			p->settled = false;
		}
		if (rc)
			return rc;
	}
}

static int close_gaps(struct compact *c)
{
	uint32_t moved;
	int rc;

	for (unsigned i = 0; i < PASSES; i++) {
		struct pass p = {.at = 0};

		moved = c->result->moved_blocks;
		rc = gaps_seek(c, &p.gaps, &p.gap_count);
		if (rc)
			return rc;
		rc = blocks_list(c, &p.blocks, &p.count);
		if (rc == 0) {
			c->total += moves_expected(p.blocks, p.count, p.gaps, p.gap_count) * c->leaf->layer->block_size;
			job_total(c->options->job, c->total);
			rc = pass_run(c, &p);
		}
		free(p.gaps);
		free(p.blocks);
		if (rc || c->result->moved_blocks == moved)
			return rc;
	}
	return 0;
}

/* After a cancellation too: what was done so far shall count, as far as it does without waiting. */
static int cut_back(struct compact *c, bool cancelled)
{
	int rc = cancelled ? flush(c) : compact_settle(c);

	if (rc == 0 && cancelled && image_wait_for_epochs_within(c->image, CLAIM_LIMIT_FIRST_MS))
		rc = worker_call(c->image, call_punch, c);
	if (rc)
		return rc;
	/* Guests that need new blocks meanwhile may make the file grow again; then that is how it is. */
	for (uint64_t i = 0; i <= c->result->before_bytes / CUT_BYTES + 1; i++) {
		rc = worker_call(c->image, call_cut, c);
		if (rc != 1)
			break;
	}
	if (rc == 1)
		rc = flush(c);
	return rc ? err_set(c->err, rc, "%s: the file cannot be cut behind its last block: %s", c->leaf->layer->path,
	                    strerror(-rc))
	          : 0;
}

static int compact_blocks(struct compact *c)
{
	int rc, cut;

	c->total = c->options->keep_zeros ? 0 : (uint64_t)c->leaf->writer->allocated * c->leaf->layer->block_size;
	job_total(c->options->job, c->total);
	rc = compact_zeros(c);
	if (rc == 0)
		rc = close_gaps(c);
	if (rc && rc != -ECANCELED)
		return rc;
	cut = cut_back(c, rc != 0);
	return rc ? rc : cut;
}

/* What the file takes. A store without a file (tests): as if it had no holes. */
static int measure(const struct compact *c, uint64_t *ret_bytes, uint64_t *ret_space)
{
	struct store *store = c->leaf->layer->store;
	struct stat st;
	int rc = store->ops->size(store, ret_bytes);

	if (rc)
		return err_set(c->err, rc, "%s: its size cannot be read: %s", c->leaf->layer->path, strerror(-rc));
	*ret_space = store->file.fd >= 0 && fstat(store->file.fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : *ret_bytes;
	return 0;
}

static int compact_run(struct compact *c)
{
	const struct layer *layer = c->leaf->layer;
	int rc = 0;

	if (posix_memalign((void **)&c->buffer, 4096, COMPACT_PIECE + (size_t)layer->bitmap_bytes)) {
		c->buffer = NULL;
		return no_memory(c);
	}
	c->bits = c->buffer + COMPACT_PIECE;
	if (layer->bat) {
		c->moved = calloc(layer->block_count / 8 + 1, 1);
		rc = c->moved ? compact_blocks(c) : no_memory(c);
		free(c->moved);
	} else {
		rc = compact_fixed(c);
		if (rc == 0)
			rc = flush(c);
	}
	free(c->buffer);
	return rc;
}

int vhd_compact(struct vhd *vhd, const struct vhd_compact_options *options, struct vhd_compact_result *ret,
                struct err *err)
{
	static const struct vhd_compact_options defaults;
	struct vhd_compact_result result = {0};
	struct image *image = vhd->image;
	struct compact c = {.image = image, .options = options ? options : &defaults, .result = &result, .err = err};
	int rc = upkeep_begin(image, err), measured;

	if (rc)
		return rc;
	c.leaf = image_stack(image)->layer[0];
	rc = measure(&c, &result.before_bytes, &result.space_before_bytes);
	if (rc == 0)
		rc = compact_run(&c);
	measured = measure(&c, &result.after_bytes, &result.space_after_bytes);
	upkeep_end(image);
	if (ret)
		*ret = result;
	return rc ? rc : measured;
}
