/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/gaps.h"
#include "vhd/image.h"

/* Extensions grow from the first to the second while a disk is being filled. */
#define STEP_FIRST_BYTES (64u << 20)
#define STEP_LAST_BYTES (512u << 20)
#define STEP_FIRST_SLOTS 64u

/* Zeros behind the last slot while the image is open: what the file ends in must not be the guest's (cut_behind). */
#define TAIL_BYTES 4096u
#define STEP_LAST_SLOTS 1024u

static int list_push(struct slot_list *l, uint32_t slot, uint32_t tag)
{
	if (l->first + l->count == l->capacity) {
		/* Half of the room in front: move down instead of growing. */
		if (l->first > l->capacity / 2) {
			memmove(l->slot, l->slot + l->first, l->count * sizeof(*l->slot));
			memmove(l->tag, l->tag + l->first, l->count * sizeof(*l->tag));
			l->first = 0;
		} else {
			unsigned capacity = l->capacity ? l->capacity * 2 : 64;
			uint32_t *slots = realloc(l->slot, capacity * sizeof(*slots));
			uint32_t *tags;

			if (!slots)
				return -ENOMEM;
			l->slot = slots;
			tags = realloc(l->tag, capacity * sizeof(*tags));
			if (!tags)
				return -ENOMEM;
			l->tag = tags;
			l->capacity = capacity;
		}
	}
	l->slot[l->first + l->count] = slot;
	l->tag[l->first + l->count] = tag;
	l->count++;
	return 0;
}

static uint32_t list_pop(struct slot_list *l)
{
	uint32_t slot = l->slot[l->first++];

	if (--l->count == 0)
		l->first = 0;
	return slot;
}

/* What cannot be remembered stays reserved space in the file: harmless, and a later compact finds it. */
static void list_push_or_leak(struct slot_list *l, uint32_t slot, uint32_t tag)
{
	(void)list_push(l, slot, tag);
}

static uint32_t epoch_now(const struct image *image)
{
	return atomic_load_explicit(&image->epoch, memory_order_relaxed);
}

static unsigned step_slots(const struct layer *leaf, unsigned bytes, unsigned slots)
{
	unsigned n = bytes / leaf->block_size;

	return n < 1 ? 1 : n < slots ? n : slots;
}

uint32_t slots_take(struct image *image, struct writer *w, bool *ret_own_pages)
{
	struct slots *s = &w->slots;
	uint32_t slot = VHD_BAT_UNALLOCATED;

	if (s->ready.count > 0) {
		*ret_own_pages = s->ready.tag[s->ready.first];
		slot = list_pop(&s->ready);
	}
	if (s->ready.count < s->step * 3 / 4 && !s->wanted) {
		s->wanted = true;
		worker_wake(image);
	}
	return slot;
}

int slots_free(struct writer *w, uint32_t slot)
{
	w->slots.gaps_sought = true; /* or never: see seek_gaps */
	return list_push(&w->slots.freed, slot, 0);
}

int slots_owe_bitmap(struct writer *w, uint32_t slot, bool own_pages)
{
	return list_push(&w->slots.owed, slot, own_pages);
}

void slots_give_back(struct image *image, struct writer *w, uint32_t slot)
{
	list_push_or_leak(&w->slots.cleared, slot, epoch_now(image));
	worker_wake(image);
}

void slots_commit_begin(struct writer *w)
{
	struct slots *s = &w->slots;

	while (s->freed.count > 0 && list_push(&s->committing, s->freed.slot[s->freed.first], 0) == 0)
		(void)list_pop(&s->freed);
}

void slots_commit_end(struct image *image, struct writer *w, bool success)
{
	struct slots *s = &w->slots;

	while (s->committing.count > 0)
		list_push_or_leak(success ? &s->cleared : &s->freed, list_pop(&s->committing), epoch_now(image));
}

void slots_punch(struct image *image, struct writer *w)
{
	struct slots *s = &w->slots;
	const struct layer *leaf = w->layer->layer;

	image_epoch_advance(image);
	while (s->cleared.count > 0 && image_epoch_passed(image, s->cleared.tag[s->cleared.first])) {
		uint32_t slot = list_pop(&s->cleared);
		struct byte_range r = layer_block_range(leaf, slot);
		int rc;

		if (r.offset < s->floor)
			continue;
		pthread_mutex_unlock(&image->lock);
		rc = leaf->store->ops->punch(leaf->store, r.offset, r.length);
		pthread_mutex_lock(&image->lock);
		if (rc == 0)
			list_push_or_leak(&s->punched, slot, 0);
	}
}

uint64_t slots_used_end(const struct writer *w)
{
	const struct layer *leaf = w->layer->layer;
	uint64_t end = round_up(leaf->metadata_end, VHD_SECTOR);

	for (uint32_t b = 0; b < leaf->block_count; b++) {
		uint32_t slot = atomic_load_explicit(&leaf->bat[b], memory_order_relaxed);
		struct byte_range r = layer_block_range(leaf, slot);

		if (slot != VHD_BAT_UNALLOCATED && r.offset + r.length > end)
			end = r.offset + r.length;
	}
	return end;
}

/*
 * From the cut on the copy at offset 0 is the only footer. Another program may have left it damaged, or with another
 * size than the one at the end, which counted until now.
 */
static int renew_copy(struct image *image, struct writer *w)
{
	struct layer *layer = w->layer->layer;
	struct store *store = layer->store;
	struct footer_disk wanted, found;
	int rc;

	if (layer->footer_source == FOOTER_FROM_COPY)
		return 0;
	footer_encode(&layer->footer, &wanted);
	rc = store->ops->read(store, &found, sizeof(found), 0);
	if (rc || memcmp(&found, &wanted, sizeof(found)) == 0)
		return rc;
	rc = store->ops->write(store, &wanted, sizeof(wanted), 0);
	return rc ? rc : writer_sync(image, w, STORE_BARRIER_FOOTER);
}

/*
 * Takes away what lay behind the last structure: the footer, and what a crash left. One sector of zeros stays, durably
 * before the cut: were a block's last sector the file's last, a guest could write a footer of its own there.
 */
static int cut_behind(struct image *image, struct writer *w, uint64_t end)
{
	static const uint8_t zeros[VHD_SECTOR];
	struct store *store = w->layer->layer->store;
	uint64_t size;
	int rc = renew_copy(image, w);

	if (rc)
		return rc;
	w->layer->layer->footer_source = FOOTER_FROM_COPY; /* from here on a close must write it */
	rc = store->ops->write(store, zeros, sizeof(zeros), end);
	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_SLOTS);
	if (rc == 0)
		rc = store->ops->size(store, &size);
	if (rc == 0 && size > end + sizeof(zeros))
		rc = store->ops->truncate(store, end + sizeof(zeros));
	return rc;
}

int slots_cut(struct image *image, struct writer *w)
{
	int rc = 0;

	if (!w->slots.cut)
		rc = cut_behind(image, w, w->slots.end);
	if (rc == 0)
		w->slots.cut = true;
	return rc;
}

static void list_keep_off(struct slot_list *l, uint64_t end)
{
	for (unsigned n = l->count; n > 0; n--) {
		uint32_t tag = l->tag[l->first], slot = list_pop(l);

		if ((uint64_t)slot * VHD_SECTOR >= end)
			list_push_or_leak(l, slot, tag);
	}
}

int slots_reserve(struct image *image, struct writer *w, uint64_t end)
{
	struct slots *s = &w->slots;
	struct store *store = w->layer->layer->store;
	int rc = slots_cut(image, w);

	if (rc == 0 && end > s->end)
		rc = store->ops->allocate(store, s->end, end - s->end + TAIL_BYTES);
	if (rc)
		return rc;
	if (end > s->end)
		s->end = end;
	pthread_mutex_lock(&image->lock);
	if (end > s->floor)
		s->floor = end;
	list_keep_off(&s->ready, s->floor);
	list_keep_off(&s->punched, s->floor);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

/* Appends up to `want` slots; *ret_count of them, in `ret`. */
static int extend(struct image *image, struct writer *w, unsigned want, uint32_t *ret, unsigned *ret_count)
{
	struct slots *s = &w->slots;
	const struct layer *leaf = w->layer->layer;
	struct store *store = leaf->store;
	int rc = slots_cut(image, w);

	if (rc)
		return rc;
	for (;; want /= 2) {
		uint64_t end = s->end;
		unsigned n = 0;

		while (n < want && slot_place(leaf, end) / VHD_SECTOR < VHD_BAT_UNALLOCATED) {
			uint64_t slot = slot_place(leaf, end);

			ret[n++] = (uint32_t)(slot / VHD_SECTOR);
			end = slot + leaf->bitmap_bytes + leaf->block_size;
		}
		if (n == 0)
			return -EFBIG; /* the BAT can name no sector beyond 2 TiB */
		rc = store->ops->allocate(store, s->end, end - s->end + TAIL_BYTES);
		if (rc == 0) {
			s->end = end;
			*ret_count = n;
			return 0;
		}
		if ((rc != -ENOSPC && rc != -EDQUOT && rc != -EFBIG) || want == 1)
			return rc;
	}
}

/*
 * Once, before the first block is added. A slot freed in this session looks like a gap but may be on disk still: then
 * the gaps are left to the next session.
 */
static void seek_gaps(struct slots *s, const struct layer *leaf)
{
	if (!s->gaps_sought && gaps_find(leaf, &s->gaps, &s->gap_count))
		s->gap_count = 0;
	s->gaps_sought = true;
}

static unsigned take_gaps(struct slots *s, const struct layer *leaf, unsigned want, uint32_t *ret)
{
	unsigned n = 0;

	while (n < want && s->gaps_used < s->gap_count) {
		uint32_t slot = s->gaps[s->gaps_used++];
		struct byte_range r = layer_block_range(leaf, slot);

		if (r.offset >= s->floor && leaf->store->ops->punch(leaf->store, r.offset, r.length) == 0)
			ret[n++] = slot;
	}
	return n;
}

/* How many slots to get: a step, but no more than the disk has blocks left for. */
static unsigned slots_missing(const struct writer *w)
{
	const struct slots *s = &w->slots;
	uint32_t left = w->layer->layer->block_count - w->allocated + s->extra;

	if (left <= s->ready.count)
		return w->slot_waiters ? 1 : 0;
	left -= s->ready.count;
	return s->step < left ? s->step : left;
}

int slots_prepare(struct image *image, struct writer *w)
{
	struct slots *s = &w->slots;
	const struct layer *leaf = w->layer->layer;
	unsigned want = slots_missing(w), n = 0;
	uint32_t *batch;
	bool extended = false, own_pages;
	int rc = 0;

	s->wanted = false;
	if (want == 0)
		return 0;
	batch = malloc(want * sizeof(*batch));
	if (!batch)
		return -ENOMEM;
	while (n < want && s->punched.count > 0)
		batch[n++] = list_pop(&s->punched);
	seek_gaps(s, leaf);
	pthread_mutex_unlock(&image->lock);
	own_pages = n == 0; /* by slot_place; what was freed may be another program's */
	if (n == 0)
		n = take_gaps(s, leaf, want, batch);
	if (n == 0) {
		rc = extend(image, w, want, batch, &n);
		extended = rc == 0;
	}
	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_SLOTS);
	pthread_mutex_lock(&image->lock);

	for (unsigned i = 0; i < n; i++)
		list_push_or_leak(rc ? &s->cleared : &s->ready, batch[i], rc ? epoch_now(image) : own_pages);
	if (rc == 0 && extended && s->step < step_slots(leaf, STEP_LAST_BYTES, STEP_LAST_SLOTS))
		s->step *= 2;
	free(batch);
	return rc;
}

void slots_init(struct writer *w)
{
	struct slots *s = &w->slots;
	const struct layer *layer = w->layer->layer;

	memset(s, 0, sizeof(*s));
	s->end = round_up(layer->data_end, VHD_SECTOR);
	s->step = step_slots(layer, STEP_FIRST_BYTES, STEP_FIRST_SLOTS);
}

void slot_list_done(struct slot_list *l)
{
	free(l->slot);
	free(l->tag);
}

void slots_done(struct slots *s)
{
	slot_list_done(&s->freed);
	slot_list_done(&s->committing);
	slot_list_done(&s->cleared);
	slot_list_done(&s->punched);
	slot_list_done(&s->ready);
	slot_list_done(&s->owed);
	free(s->gaps);
}
