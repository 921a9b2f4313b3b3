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
	own_pages = n == 0 && !s->gaps_tight; /* by slot_place; what was freed may be another program's */
	if (n == 0)
		n = take_gaps(s, leaf, want, batch);
	if (n == 0) {
		rc = extend(image, w, want, batch, &n);
		extended = rc == 0;
		own_pages |= extended;
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

/* Keeps the order of the file, as far as there is one. */
static void list_insert_or_leak(struct slot_list *l, uint32_t slot, uint32_t tag)
{
	unsigned at;

	if (list_push(l, slot, tag))
		return;
	for (at = l->first + l->count - 1; at > l->first && l->slot[at - 1] > slot; at--) {
		l->slot[at] = l->slot[at - 1];
		l->tag[at] = l->tag[at - 1];
	}
	l->slot[at] = slot;
	l->tag[at] = tag;
}

uint32_t slots_take_below(struct writer *w, uint32_t limit)
{
	struct slot_list *l = &w->slots.ready;
	unsigned lowest = l->first;
	uint32_t slot;

	for (unsigned i = l->first; i < l->first + l->count; i++)
		if (l->slot[i] < l->slot[lowest])
			lowest = i;
	if (l->count == 0 || l->slot[lowest] >= limit)
		return VHD_BAT_UNALLOCATED;
	slot = l->slot[lowest];
	l->slot[lowest] = l->slot[l->first];
	l->tag[lowest] = l->tag[l->first];
	(void)list_pop(l);
	return slot;
}

void slots_punch_now(struct image *image, struct writer *w)
{
	pthread_mutex_lock(&image->lock);
	slots_punch(image, w);
	pthread_mutex_unlock(&image->lock);
}

static size_t list_copy(const struct slot_list *l, uint32_t *ret)
{
	if (l->count > 0)
		memcpy(ret, l->slot + l->first, l->count * sizeof(*ret));
	return l->count;
}

/* Slots that blocks or requests use, or will be used by. Under the lock; `ret` has room. Returns how many. */
static size_t list_busy(const struct writer *w, uint32_t *ret)
{
	const struct layer *leaf = w->layer->layer;
	const struct slots *s = &w->slots;
	size_t n = 0;

	for (uint32_t b = 0; b < leaf->block_count; b++) {
		uint32_t slot = atomic_load_explicit(&leaf->bat[b], memory_order_relaxed);

		if (slot != VHD_BAT_UNALLOCATED)
			ret[n++] = slot;
	}
	for (unsigned i = 0; i < PENDING_BUCKETS; i++)
		for (const struct pending *p = w->pending[i]; p; p = p->next)
			if (!p->published)
				ret[n++] = p->slot;
	n += list_copy(&s->freed, ret + n);
	n += list_copy(&s->committing, ret + n);
	return n + list_copy(&s->cleared, ret + n);
}

/* Room for list_busy. Under the lock. */
static uint32_t *busy_new(const struct writer *w)
{
	const struct slots *s = &w->slots;
	size_t n = (size_t)w->layer->layer->block_count + s->freed.count + s->committing.count + s->cleared.count +
	           s->ready.count;

	for (unsigned i = 0; i < PENDING_BUCKETS; i++)
		for (const struct pending *p = w->pending[i]; p; p = p->next)
			n++;
	return malloc((n + 1) * sizeof(uint32_t));
}

int slots_list_used(struct image *image, struct writer *w, uint32_t **ret, size_t *ret_count)
{
	struct slots *s = &w->slots;

	pthread_mutex_lock(&image->lock);
	*ret = busy_new(w);
	if (*ret) {
		*ret_count = list_busy(w, *ret);
		*ret_count += list_copy(&s->ready, *ret + *ret_count);
		s->punched.first = s->punched.count = 0;
		s->gaps_sought = true;
		s->gap_count = s->gaps_used = 0;
	}
	pthread_mutex_unlock(&image->lock);
	return *ret ? 0 : -ENOMEM;
}

void slots_set_gaps(struct writer *w, uint32_t *gaps, unsigned count, bool tight)
{
	struct slots *s = &w->slots;

	free(s->gaps);
	s->gaps = gaps;
	s->gap_count = count;
	s->gaps_used = 0;
	s->gaps_tight = tight;
}

int slots_prepare_gaps(struct image *image, struct writer *w, unsigned want)
{
	uint32_t *batch = malloc((want + 1) * sizeof(*batch));
	unsigned n;
	int rc;

	if (!batch)
		return -ENOMEM;
	n = take_gaps(&w->slots, w->layer->layer, want, batch);
	rc = n > 0 ? writer_sync(image, w, STORE_BARRIER_SLOTS) : 0;
	pthread_mutex_lock(&image->lock);
	for (unsigned i = 0; i < n && rc == 0; i++)
		list_insert_or_leak(&w->slots.ready, batch[i], !w->slots.gaps_tight);
	pthread_mutex_unlock(&image->lock);
	free(batch);
	return rc;
}

/* Forgets those that reach beyond `end`. */
static void list_cut(struct slot_list *l, const struct layer *leaf, uint64_t end)
{
	unsigned kept = 0;

	for (unsigned i = l->first; i < l->first + l->count; i++) {
		struct byte_range r = layer_block_range(leaf, l->slot[i]);

		if (r.offset + r.length > end)
			continue;
		l->slot[l->first + kept] = l->slot[i];
		l->tag[l->first + kept++] = l->tag[i];
	}
	l->count = kept;
	if (kept == 0)
		l->first = 0;
}

/* The end of what is in use. Under the lock. 0 or -ENOMEM. */
static int busy_end(const struct writer *w, uint64_t *ret)
{
	const struct layer *leaf = w->layer->layer;
	uint64_t end = round_up(leaf->metadata_end, VHD_SECTOR);
	uint32_t *busy = busy_new(w);
	size_t n;

	if (!busy)
		return -ENOMEM;
	n = list_busy(w, busy);
	for (size_t i = 0; i < n; i++) {
		struct byte_range r = layer_block_range(leaf, busy[i]);

		if (r.offset + r.length > end)
			end = r.offset + r.length;
	}
	free(busy);
	*ret = end;
	return 0;
}

/* Nothing behind `end` can come into use any more. Under the lock. */
static void draw_back(struct writer *w, uint64_t end)
{
	const struct layer *leaf = w->layer->layer;
	struct slots *s = &w->slots;

	list_cut(&s->ready, leaf, end);
	list_cut(&s->punched, leaf, end);
	while (s->gap_count > s->gaps_used &&
	       (uint64_t)s->gaps[s->gap_count - 1] * VHD_SECTOR + leaf->bitmap_bytes + leaf->block_size > end)
		s->gap_count--;
	s->step = step_slots(leaf, STEP_FIRST_BYTES, STEP_FIRST_SLOTS);
}

int slots_cut_back(struct image *image, struct writer *w, uint64_t most)
{
	struct store *store = w->layer->layer->store;
	uint64_t size, end = 0, to;
	int rc = store->ops->size(store, &size);

	if (rc)
		return rc;
	pthread_mutex_lock(&image->lock);
	rc = busy_end(w, &end);
	to = w->slots.end > end + most ? w->slots.end - most : end;
	if (rc == 0)
		draw_back(w, to);
	pthread_mutex_unlock(&image->lock);
	if (rc || size <= to + VHD_SECTOR) /* the footer, or the zeros in its place, are there already */
		return rc;
	rc = cut_behind(image, w, to);
	if (rc)
		return rc;
	w->slots.end = to;
	w->slots.cut = true;
	if (to > end)
		return 1;
	return writer_sync(image, w, STORE_BARRIER_CLOSE);
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
