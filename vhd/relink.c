/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A header is two sectors, a footer one. So a new header is first written behind everything else, then the copy of the
 * footer at 0 names it, and only then is the old one overwritten, at its place at the front, and named again:
 *
 *   zeros over the place of the footer   sync   cut behind them   sync
 *   [locators that need new space] zeros [header, locators] zeros   sync
 *   copy at 0 names that header          sync
 *   header and locators at the front     sync
 *   copy at 0 names the one at the front sync
 *   footer behind the last structure     sync   cut behind it     sync
 *
 * The footer at the end counts more than the copy at 0, so it goes first; and what a file ends in is always a sector of
 * zeros or a footer of ours, never something that could look like one (slots.c, cut_behind).
 */
#include "vhd/relink.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/linkage.h"
#include "vhd/locator.h"

static const uint8_t zero_sector[VHD_SECTOR];

struct relink_tail relink_tail_of(const struct layer *layer)
{
	return (struct relink_tail){.end = round_up(layer->data_end, VHD_SECTOR)};
}

/* --- what lies where --- */

static uint64_t table_bytes(const struct header *header)
{
	return round_up((uint64_t)header->max_table_entries * 4, VHD_SECTOR);
}

static void stop_at(struct byte_range used, uint64_t offset, uint64_t *limit)
{
	if (used.length == 0 || used.offset + used.length <= offset)
		return;
	if (used.offset <= offset)
		*limit = offset;
	else if (used.offset < *limit)
		*limit = used.offset;
}

/* Where the space from `offset` on ends that nothing but locators is in; at most `limit`. */
static uint64_t free_until(const struct layer *layer, const struct layer_change *change, uint64_t offset,
                           uint64_t limit)
{
	const struct header *headers[2] = {&layer->header, change->header};

	stop_at((struct byte_range){0, VHD_SECTOR}, offset, &limit);
	stop_at((struct byte_range){layer->header_offset, sizeof(struct header_disk)}, offset, &limit);
	stop_at(layer->batmap, offset, &limit);
	for (unsigned i = 0; i < 2; i++)
		stop_at((struct byte_range){headers[i]->table_offset, table_bytes(headers[i])}, offset, &limit);
	for (uint32_t block = 0; block < layer->block_count; block++) {
		uint32_t slot = atomic_load_explicit(&layer->bat[block], memory_order_relaxed);

		if (slot != VHD_BAT_UNALLOCATED)
			stop_at(layer_block_range(layer, slot), offset, &limit);
	}
	return limit;
}

static bool locator_used(const struct locator *locator)
{
	return memcmp(locator->code, "\0\0\0\0", 4) != 0 && locator_space_bytes(locator) != 0;
}

static bool is_new(const struct layer_change *change, unsigned i)
{
	return change->locator_data[i] != NULL;
}

static bool any_new(const struct layer_change *change)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (is_new(change, i))
			return true;
	return false;
}

/*
 * The space of the old locators, neighbours joined, sorted. A locator may claim more than it has (Windows writes 64 KiB,
 * in front of a BAT): what something else is in, or what lies behind the end, is not its own.
 */
static unsigned locator_spaces(const struct layer *layer, const struct layer_change *change, uint64_t end,
                               struct byte_range ret[VHD_LOCATORS])
{
	unsigned count = 0, joined = 0;

	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct locator *locator = &layer->header.locators[i];
		uint64_t from = round_up(locator->offset, VHD_SECTOR), until = end;
		unsigned at = count;

		if (!locator_used(locator) || locator->offset >= end)
			continue;
		if (locator_space_bytes(locator) < end - locator->offset)
			until = locator->offset + locator_space_bytes(locator);
		until = round_down(free_until(layer, change, from, until), VHD_SECTOR);
		if (until <= from)
			continue;
		for (; at > 0 && ret[at - 1].offset > from; at--)
			ret[at] = ret[at - 1];
		ret[at] = (struct byte_range){from, until - from};
		count++;
	}
	for (unsigned i = 1; i < count; i++) {
		struct byte_range *last = &ret[joined];
		uint64_t until = ret[i].offset + ret[i].length;

		if (ret[i].offset > last->offset + last->length)
			ret[++joined] = ret[i];
		else if (until > last->offset + last->length)
			last->length = until - last->offset;
	}
	return count ? joined + 1 : 0;
}

/* --- the plan --- */

struct plan {
	struct header header;  /* as it will be, at `place` */
	uint64_t place;
	struct header staged;  /* the same behind everything, at `stage` */
	uint64_t stage;
	uint64_t end;          /* of all structures, afterwards */
	uint64_t stage_end;
	bool fresh;            /* the locators lie behind the blocks from now on, at the old end */
};

/* All new locators into old spaces: the last one in each space gets what is left of it. */
static bool place_in_old_spaces(const struct layer *layer, const struct layer_change *change, uint64_t end,
                                struct header *header)
{
	struct byte_range spaces[VHD_LOCATORS];
	int last[VHD_LOCATORS];
	unsigned count = locator_spaces(layer, change, end, spaces);

	for (unsigned s = 0; s < count; s++)
		last[s] = -1;
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		struct locator *locator = &header->locators[i];
		uint64_t want = round_up(locator->length, VHD_SECTOR);
		unsigned s = 0;

		if (!is_new(change, i))
			continue;
		while (s < count && spaces[s].length < want)
			s++;
		if (s == count)
			return false;
		locator->offset = spaces[s].offset;
		locator->space = (uint32_t)want;
		spaces[s].offset += want;
		spaces[s].length -= want;
		last[s] = (int)i;
	}
	for (unsigned s = 0; s < count; s++)
		if (last[s] >= 0)
			header->locators[last[s]].space += (uint32_t)spaces[s].length;
	return true;
}

static uint64_t place_behind(const struct layer_change *change, uint64_t at, uint64_t least, struct header *header)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		struct locator *locator = &header->locators[i];
		uint64_t space = round_up(locator->length, VHD_SECTOR);

		if (!is_new(change, i))
			continue;
		if (space < least)
			space = least;
		locator->offset = at;
		locator->space = (uint32_t)space;
		at += space;
	}
	return at;
}

/* At the front, where every program looks for it, if a crash or another program has left it elsewhere. */
static uint64_t header_place(const struct layer *layer, const struct layer_change *change)
{
	uint64_t place = VHD_SECTOR, end = place + sizeof(struct header_disk);

	if (layer->header_offset < layer->header.table_offset || free_until(layer, change, place, end) < end)
		return layer->header_offset;
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct locator *locator = &layer->header.locators[i];

		if (locator_used(locator) && locator->offset < end && place < locator->offset + locator_space_bytes(locator))
			return layer->header_offset;
	}
	return place;
}

static void plan_make(const struct layer *layer, const struct layer_change *change, uint64_t end, struct plan *ret)
{
	struct plan plan = {.header = *change->header, .place = header_place(layer, change), .end = end};

	plan.fresh = any_new(change) && !place_in_old_spaces(layer, change, end, &plan.header);
	if (plan.fresh)
		plan.end = place_behind(change, end, LINKAGE_SPACE, &plan.header);
	plan.staged = plan.header;
	plan.stage = plan.end + VHD_SECTOR;
	plan.stage_end = plan.stage + sizeof(struct header_disk);
	if (!plan.fresh)
		plan.stage_end = place_behind(change, plan.stage_end, 0, &plan.staged);
	*ret = plan;
}

/* --- steps --- */

static int sync_for(struct store *store, enum store_barrier why)
{
	int rc = store->ops->sync(store, why);

	if (rc)
		store->sync_failed = true;
	return rc;
}

static int write_copy(struct store *store, const struct footer *footer)
{
	struct footer_disk disk;

	footer_encode(footer, &disk);
	return store->ops->write(store, &disk, sizeof(disk), 0);
}

/* Before the footer at the end goes, its copy must be able to take its place. */
static int copy_ensure(const struct layer *layer)
{
	struct store *store = layer->store;
	struct footer_disk want, found;
	int rc;

	footer_encode(&layer->footer, &want);
	rc = store->ops->read(store, &found, sizeof(found), 0);
	if (rc || !memcmp(&want, &found, sizeof(want)))
		return rc;
	rc = store->ops->write(store, &want, sizeof(want), 0);
	return rc ? rc : sync_for(store, STORE_BARRIER_UNSEAL);
}

static int unseal(struct layer *layer, uint64_t end)
{
	struct store *store = layer->store;
	uint64_t size;
	int rc;

	layer->footer_source = FOOTER_FROM_COPY;
	rc = store->ops->write(store, zero_sector, sizeof(zero_sector), end);
	if (rc == 0)
		rc = sync_for(store, STORE_BARRIER_UNSEAL);
	if (rc == 0)
		rc = store->ops->size(store, &size);
	if (rc || size <= end + VHD_SECTOR)
		return rc;
	/* A footer further behind goes with this. */
	rc = store->ops->truncate(store, end + VHD_SECTOR);
	return rc ? rc : sync_for(store, STORE_BARRIER_UNSEAL);
}

static int seal(struct layer *layer, uint64_t end)
{
	struct store *store = layer->store;
	struct footer_disk footer;
	int rc;

	footer_encode(&layer->footer, &footer);
	rc = store->ops->write(store, &footer, sizeof(footer), end);
	if (rc == 0)
		rc = sync_for(store, STORE_BARRIER_FOOTER);
	if (rc == 0)
		rc = store->ops->truncate(store, end + sizeof(footer));
	if (rc == 0)
		rc = sync_for(store, STORE_BARRIER_CLOSE);
	if (rc == 0) {
		layer->footer_source = FOOTER_AT_END;
		layer->file_size = end + sizeof(footer);
	}
	return rc;
}

static void buffer_put_locators(const struct layer_change *change, const struct header *header, uint8_t *buffer,
                                uint64_t start)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (is_new(change, i))
			memcpy(buffer + (header->locators[i].offset - start), change->locator_data[i], header->locators[i].length);
}

/* One write, zeros at both of its ends and between what lasts and what does not. */
static int write_stage(const struct layer *layer, const struct layer_change *change, const struct plan *plan,
                       uint64_t start)
{
	struct store *store = layer->store;
	uint64_t length = plan->stage_end + VHD_SECTOR - start;
	struct header_disk header;
	uint8_t *buffer;
	int rc;

	rc = store->ops->allocate(store, start, length);
	if (rc)
		return rc;
	buffer = calloc(1, length);
	if (!buffer)
		return -ENOMEM;
	header_encode(&plan->staged, &header);
	memcpy(buffer + (plan->stage - start), &header, sizeof(header));
	buffer_put_locators(change, &plan->staged, buffer, start);
	rc = store->ops->write(store, buffer, length, start);
	free(buffer);
	return rc ? rc : sync_for(store, STORE_BARRIER_HEADER);
}

/* The staged header is in force, so nobody reads what this overwrites. */
static int write_place(const struct layer *layer, const struct layer_change *change, const struct plan *plan)
{
	struct store *store = layer->store;
	struct header_disk header;
	int rc;

	header_encode(&plan->header, &header);
	rc = store->ops->write(store, &header, sizeof(header), plan->place);
	for (unsigned i = 0; i < VHD_LOCATORS && rc == 0 && !plan->fresh; i++)
		if (is_new(change, i))
			rc = store->ops->write(store, change->locator_data[i], plan->header.locators[i].length,
			                       plan->header.locators[i].offset);
	return rc ? rc : sync_for(store, STORE_BARRIER_HEADER);
}

/* The copy at 0 says `footer`, durably, and so does `layer`. */
static int switch_to(struct layer *layer, const struct footer *footer, const struct header *header)
{
	struct store *store = layer->store;
	int rc = write_copy(store, footer);

	if (rc == 0)
		rc = sync_for(store, STORE_BARRIER_SWITCH);
	if (rc)
		return rc;
	layer->footer = *footer;
	layer->size = footer->current_size;
	if (header) {
		layer->header = *header;
		layer->header_offset = footer->data_offset;
	}
	return 0;
}

/* metadata_end, data_end, parent_name say what the new header says. */
static void layer_renew(struct layer *layer)
{
	uint64_t end = layer->header_offset + sizeof(struct header_disk), other;
	char *name = NULL;

	other = layer->header.table_offset + table_bytes(&layer->header);
	end = other > end ? other : end;
	other = layer->batmap.offset + layer->batmap.length;
	end = other > end ? other : end;
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct locator *locator = &layer->header.locators[i];
		uint64_t space = locator_space_bytes(locator);

		/* As layer.c counts them: a space counts if the file can hold it. */
		if (locator_used(locator) && range_inside(locator->offset, space, layer->file_size) &&
		    locator->offset + space > end)
			end = locator->offset + space;
	}
	layer->metadata_end = layer->data_end = end;
	for (uint32_t block = 0; block < layer->block_count; block++) {
		uint32_t slot = atomic_load_explicit(&layer->bat[block], memory_order_relaxed);
		struct byte_range range = layer_block_range(layer, slot);

		if (slot != VHD_BAT_UNALLOCATED && range.offset + range.length > layer->data_end)
			layer->data_end = range.offset + range.length;
	}
	free(layer->parent_name);
	layer->parent_name = NULL;
	if (layer->footer.type == VHD_DIFFERENCING &&
	    utf16_decode((const uint8_t *)layer->header.raw.parent_name, sizeof(layer->header.raw.parent_name), true, &name,
	                 NULL) == 0 && name[0])
		layer->parent_name = name;
	else
		free(name);
}

/* --- the whole --- */

static int header_switch(struct layer *layer, const struct layer_change *change, const struct plan *plan)
{
	struct footer footer = *change->footer;
	int rc;

	footer.data_offset = plan->stage;
	rc = switch_to(layer, &footer, &plan->staged);
	if (rc == 0)
		rc = write_place(layer, change, plan);
	footer.data_offset = plan->place;
	return rc ? rc : switch_to(layer, &footer, &plan->header);
}

static int footer_switch(struct layer *layer, const struct layer_change *change)
{
	struct footer footer = *change->footer;

	footer.data_offset = layer->footer.data_offset;
	return switch_to(layer, &footer, NULL);
}

/* The copy at 0 names the staged header, or may: nothing may take its place until another change has succeeded. */
static void keep_stage(struct layer *layer, struct relink_tail *tail, const struct plan *plan)
{
	uint64_t end = plan->stage_end + VHD_SECTOR;

	layer_renew(layer);
	layer->metadata_end = layer->metadata_end > end ? layer->metadata_end : end;
	layer->data_end = layer->data_end > end ? layer->data_end : end;
	tail->end = layer->data_end > tail->end ? layer->data_end : tail->end;
}

static int sparse_switch(struct layer *layer, struct relink_tail *tail, const struct layer_change *change)
{
	uint64_t start = round_up(tail->end, VHD_SECTOR), end = start;
	struct plan plan;
	int rc;

	rc = copy_ensure(layer);
	if (rc == 0 && !tail->open)
		rc = unseal(layer, start);
	if (rc)
		return rc;
	if (change->header) {
		plan_make(layer, change, start, &plan);
		end = plan.end;
		rc = write_stage(layer, change, &plan, start);
		if (rc) {
			/* Nothing has changed yet; the file gets its footer back if it can. */
			if (!tail->open)
				(void)seal(layer, start);
			else
				(void)layer->store->ops->truncate(layer->store, start + VHD_SECTOR);
			return rc;
		}
	}
	rc = change->header ? header_switch(layer, change, &plan) : footer_switch(layer, change);
	if (rc && change->header)
		keep_stage(layer, tail, &plan);
	if (rc)
		return rc;
	tail->end = end;
	if (!tail->open)
		rc = seal(layer, end);
	else if (change->header)
		rc = layer->store->ops->truncate(layer->store, end + VHD_SECTOR); /* durable with the next sync */
	if (change->header) {
		if (layer->file_size < end)
			layer->file_size = end;
		layer_renew(layer);
	}
	return rc;
}

/* The one footer, in place: one sector. If it is not aligned to sectors it is put where the disk ends, and cut there. */
static int fixed_switch(struct layer *layer, const struct footer *footer)
{
	struct store *store = layer->store;
	struct footer_disk disk;
	uint64_t size, at;
	int rc = store->ops->size(store, &size);

	if (rc)
		return rc;
	footer_encode(footer, &disk);
	at = size - (layer->footer_source == FOOTER_AT_END_511 ? VHD_SECTOR - 1 : VHD_SECTOR);
	if (at % VHD_SECTOR == 0) {
		rc = store->ops->write(store, &disk, sizeof(disk), at);
		if (rc == 0)
			rc = sync_for(store, STORE_BARRIER_SWITCH);
	} else if (layer->size + sizeof(disk) <= at) {
		rc = store->ops->write(store, &disk, sizeof(disk), layer->size);
		if (rc == 0)
			rc = sync_for(store, STORE_BARRIER_FOOTER);
		if (rc == 0)
			rc = store->ops->truncate(store, layer->size + sizeof(disk));
		if (rc == 0)
			rc = sync_for(store, STORE_BARRIER_CLOSE);
	} else {
		return -EUCLEAN;
	}
	if (rc == 0) {
		layer->footer = *footer;
		layer->footer_source = FOOTER_AT_END;
		rc = store->ops->size(store, &layer->file_size);
	}
	return rc;
}

int layer_switch(struct layer *layer, struct relink_tail *tail, const struct layer_change *change, struct err *err)
{
	int rc = layer->footer.type == VHD_FIXED ? fixed_switch(layer, change->footer) : sparse_switch(layer, tail, change);

	if (rc == -EUCLEAN)
		return err_set(err, -EINVAL, "%s: its footer lies across sectors (the file has %" PRIu64 " bytes), so it cannot be "
		               "changed safely; convert the disk to a new file", layer->path, layer->file_size);
	return rc ? err_set(err, rc, "%s: changing its footer and header failed: %s", layer->path, strerror(-rc)) : 0;
}

int layer_set_uuid(struct layer *layer, struct relink_tail *tail, const uint8_t uuid[16], struct err *err)
{
	struct footer footer = layer->footer;

	memcpy(footer.uuid, uuid, sizeof(footer.uuid));
	return layer_switch(layer, tail, &(struct layer_change){.footer = &footer}, err);
}

static void clear_linkage(struct header *header)
{
	memset(header->raw.parent_name, 0, sizeof(header->raw.parent_name));
	memset(header->raw.locators, 0, sizeof(header->raw.locators));
	memset(header->locators, 0, sizeof(header->locators));
	memset(header->parent_uuid, 0, sizeof(header->parent_uuid));
	header->parent_time_stamp = 0;
}

int layer_set_parent(struct layer *layer, struct relink_tail *tail, const char *parent, const uint8_t uuid[16],
                     uint32_t time_stamp, struct err *err)
{
	struct header header = layer->header;
	struct footer footer = layer->footer;
	struct layer_change change = {.footer = &footer, .header = &header};
	struct linkage linkage;
	char *child;
	bool mac = false;
	int rc;

	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		mac |= !memcmp(layer->header.locators[i].code, "MacX", 4);
	child = realpath(layer->path, NULL);
	rc = linkage_make(child ? child : layer->path, parent, mac, &linkage, err);
	free(child);
	if (rc)
		return rc;
	clear_linkage(&header);
	for (unsigned i = 0; i < linkage.count; i++) {
		memcpy(header.locators[i].code, linkage.locators[i].code, 4);
		header.locators[i].length = linkage.locators[i].length;
		change.locator_data[i] = linkage.locators[i].data;
	}
	memcpy(header.raw.parent_name, linkage.name, sizeof(linkage.name));
	memcpy(header.parent_uuid, uuid, sizeof(header.parent_uuid));
	header.parent_time_stamp = time_stamp;
	footer.type = VHD_DIFFERENCING;
	rc = layer_switch(layer, tail, &change, err);
	linkage_done(&linkage);
	return rc;
}

int layer_set_no_parent(struct layer *layer, struct relink_tail *tail, struct err *err)
{
	struct header header = layer->header;
	struct footer footer = layer->footer;

	clear_linkage(&header);
	footer.type = VHD_DYNAMIC;
	return layer_switch(layer, tail, &(struct layer_change){.footer = &footer, .header = &header}, err);
}
