/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Carries a plan out: what differs from the file is written, phase after phase. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/repair.h"

#define CHUNK (1u << 20)
#define GRAIN VHD_SECTOR /* what is compared at a time */

static int range_add(struct repair_ranges *ranges, uint64_t offset, uint64_t length, unsigned phase, bool cut)
{
	struct repair_range *last = ranges->count ? &ranges->list[ranges->count - 1] : NULL;

	if (last && last->phase == phase && last->cut == cut && last->offset + last->length == offset) {
		last->length += length;
		return 0;
	}
	if (ranges->count == ranges->room) {
		size_t room = ranges->room * 2 + 16;
		struct repair_range *grown = reallocarray(ranges->list, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		ranges->list = grown;
		ranges->room = room;
	}
	ranges->list[ranges->count++] = (struct repair_range){offset, length, phase, cut};
	return 0;
}

/* Where the plan differs from the file inside [offset, end), which lies in both. */
static int compare(struct repair *repair, uint64_t offset, uint64_t end, unsigned phase, uint8_t *buffers,
                   struct repair_ranges *ret)
{
	uint8_t *old = buffers, *new = buffers + CHUNK;
	int r = 0;

	while (offset < end && r == 0) {
		/* Pieces begin at multiples of the grain, so that a sector is written whole. */
		uint64_t next = round_down(offset, CHUNK) + CHUNK, n = (next < end ? next : end) - offset;

		r = repair->store->ops->read(repair->store, old, (size_t)n, offset);
		if (r == 0)
			r = overlay_read(&repair->plan, new, (size_t)n, offset);
		for (uint64_t at = 0, piece; at < n && r == 0; at += piece) {
			piece = GRAIN - (offset + at) % GRAIN;
			if (piece > n - at)
				piece = n - at;
			if (memcmp(old + at, new + at, piece))
				r = range_add(ret, offset + at, piece, phase, false);
		}
		offset += n;
	}
	return r;
}

/* One extent of the plan, or (phase SPACE) what lies between two and was cut off on the way. */
static int stretch_find(struct repair *repair, uint64_t offset, uint64_t end, unsigned phase, bool copied,
                        uint8_t *buffers, struct repair_ranges *ret)
{
	uint64_t both = repair->plan.file_size < repair->plan.size ? repair->plan.file_size : repair->plan.size;
	int r = 0;

	if (offset < both && !copied)
		r = compare(repair, offset, end < both ? end : both, phase, buffers, ret);
	else if (offset < both)
		r = range_add(ret, offset, (end < both ? end : both) - offset, phase, false);
	if (r == 0 && end > both)
		r = range_add(ret, offset > both ? offset : both, end - (offset > both ? offset : both), phase, false);
	return r;
}

static int by_phase(const void *a, const void *b)
{
	const struct repair_range *x = a, *y = b;

	if (x->cut != y->cut)
		return x->cut - y->cut;
	if (x->phase != y->phase)
		return x->phase < y->phase ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

int repair_ranges_find(struct repair *repair, struct repair_ranges *ret)
{
	const struct overlay *plan = &repair->plan;
	uint64_t both = plan->file_size < plan->size ? plan->file_size : plan->size, bare = plan->kept;
	uint8_t *buffers = malloc(2 * (size_t)CHUNK);
	int r = buffers ? 0 : -ENOMEM;

	for (size_t i = 0; i < plan->count && r == 0; i++) {
		const struct overlay_extent *e = &plan->extents[i];

		if (e->offset > bare && bare < both)
			r = compare(repair, bare, e->offset < both ? e->offset : both, PHASE_SPACE, buffers, ret);
		if (r == 0)
			r = stretch_find(repair, e->offset, e->offset + e->length, e->phase, !e->bytes, buffers, ret);
		bare = e->offset + e->length > bare ? e->offset + e->length : bare;
	}
	if (r == 0 && bare < both)
		r = compare(repair, bare, both, PHASE_SPACE, buffers, ret);
	if (r == 0 && plan->size < plan->file_size)
		r = range_add(ret, plan->size, plan->file_size - plan->size, PHASE_LAST, true);
	free(buffers);
	if (r)
		return err_set(repair->err, r, "%s: comparing it with its plan failed: %s", repair->path, strerror(-r));
	if (ret->count)
		qsort(ret->list, ret->count, sizeof(*ret->list), by_phase);
	return 0;
}

struct applying {
	struct repair *repair;
	uint8_t *buffer; /* owned */
	uint64_t done, total;
};

static int failed(const struct applying *a, const char *what, int r)
{
	return err_set(a->repair->err, r, "%s: %s failed: %s; what was done so far is no worse than before: run the repair "
	               "again, or undo it with the side file %s", a->repair->path, what, strerror(-r),
	               a->repair->result->side_file);
}

static int range_write(struct applying *a, const struct repair_range *range)
{
	struct repair *repair = a->repair;
	int r = 0;

	for (uint64_t done = 0, n; done < range->length && r == 0; done += n) {
		n = range->length - done < CHUNK ? range->length - done : CHUNK;
		r = overlay_read(&repair->plan, a->buffer, (size_t)n, range->offset + done);
		if (r == 0)
			r = repair->store->ops->write(repair->store, a->buffer, (size_t)n, range->offset + done);
		a->done += n;
		if (r == 0 && repair->options->progress)
			repair->options->progress(repair->options->user, a->done, a->total);
	}
	return r ? failed(a, "writing", r) : 0;
}

static int phase_sync(struct applying *a, unsigned phase)
{
	static const enum store_barrier barriers[PHASES] = {
		[PHASE_COPY] = STORE_BARRIER_FOOTER, [PHASE_SPACE] = STORE_BARRIER_SLOTS,
		[PHASE_BATMAP] = STORE_BARRIER_DATA, [PHASE_HEADER] = STORE_BARRIER_METADATA,
		[PHASE_BAT] = STORE_BARRIER_METADATA, [PHASE_END] = STORE_BARRIER_FOOTER, [PHASE_LAST] = STORE_BARRIER_CLOSE,
	};
	int r = a->repair->store->ops->sync(a->repair->store, barriers[phase]);

	return r ? failed(a, "making it durable", r) : 0;
}

/* The new size at once, so that nothing of a block is ever the last sector, where a footer would be looked for. */
static int grow(struct applying *a)
{
	struct repair *repair = a->repair;
	int r;

	if (repair->plan.size <= repair->plan.file_size)
		return 0;
	r = repair->store->ops->truncate(repair->store, repair->plan.size);
	return r ? failed(a, "making it longer", r) : phase_sync(a, PHASE_SPACE);
}

static int cut(struct applying *a)
{
	struct repair *repair = a->repair;
	int r;

	if (repair->plan.size >= repair->plan.file_size)
		return 0;
	r = repair->store->ops->truncate(repair->store, repair->plan.size);
	return r ? failed(a, "cutting it", r) : phase_sync(a, PHASE_LAST);
}

int repair_apply(struct repair *repair, const struct repair_ranges *ranges)
{
	struct applying a = {.repair = repair, .buffer = malloc(CHUNK)};
	size_t i = 0;
	int r = a.buffer ? 0 : repair_no_memory(repair);

	for (size_t n = 0; n < ranges->count; n++)
		a.total += ranges->list[n].cut ? 0 : ranges->list[n].length;
	for (unsigned phase = 0; phase < PHASES && r == 0; phase++) {
		bool any = false;

		if (phase == PHASE_SPACE)
			r = grow(&a);
		for (; i < ranges->count && !ranges->list[i].cut && ranges->list[i].phase == phase && r == 0; i++) {
			r = range_write(&a, &ranges->list[i]);
			any = true;
		}
		if (r == 0 && any)
			r = phase_sync(&a, phase);
	}
	if (r == 0)
		r = cut(&a);
	free(a.buffer);
	return r;
}
