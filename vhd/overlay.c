/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

int overlay_init(struct overlay *overlay, struct store *file)
{
	int r;

	*overlay = (struct overlay){.file = file};
	r = file->ops->size(file, &overlay->file_size);
	overlay->size = overlay->kept = overlay->file_size;
	return r;
}

void overlay_done(struct overlay *overlay)
{
	for (size_t i = 0; i < overlay->count; i++)
		free(overlay->extents[i].bytes);
	free(overlay->extents);
	*overlay = (struct overlay){0};
}

/* The file's own bytes as far as they show, zeros behind. */
static int base_read(const struct overlay *overlay, uint8_t *buffer, uint64_t length, uint64_t offset)
{
	uint64_t there = offset < overlay->kept ? overlay->kept - offset : 0;

	if (there > length)
		there = length;
	memset(buffer + there, 0, length - there);
	return there ? overlay->file->ops->read(overlay->file, buffer, there, offset) : 0;
}

/* The first extent that ends behind `offset`. */
static size_t extent_find(const struct overlay *overlay, uint64_t offset)
{
	size_t low = 0, high = overlay->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct overlay_extent *e = &overlay->extents[middle];

		if (e->offset + e->length <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int overlay_read(const struct overlay *overlay, void *buffer, size_t length, uint64_t offset)
{
	size_t i = extent_find(overlay, offset);
	uint8_t *out = buffer;
	int r = 0;

	if (!range_inside(offset, length, overlay->size))
		return -ENODATA;
	while (length > 0 && r == 0) {
		const struct overlay_extent *e = i < overlay->count ? &overlay->extents[i] : NULL;
		uint64_t n = length;

		if (!e || e->offset > offset) {
			if (e && e->offset - offset < n)
				n = e->offset - offset;
			r = base_read(overlay, out, n, offset);
		} else {
			uint64_t skip = offset - e->offset;

			if (e->length - skip < n)
				n = e->length - skip;
			if (e->bytes)
				memcpy(out, e->bytes + skip, n);
			else
				r = base_read(overlay, out, n, e->source + skip);
			i++;
		}
		out += n;
		offset += n;
		length -= (size_t)n;
	}
	return r;
}

static int room_make(struct overlay *overlay, size_t more)
{
	struct overlay_extent *grown;
	size_t room = overlay->room * 2 + more + 16;

	if (overlay->count + more <= overlay->room)
		return 0;
	grown = reallocarray(overlay->extents, room, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	overlay->extents = grown;
	overlay->room = room;
	return 0;
}

static void extent_insert(struct overlay *overlay, size_t at, const struct overlay_extent *extent)
{
	memmove(overlay->extents + at + 1, overlay->extents + at, (overlay->count - at) * sizeof(*extent));
	overlay->extents[at] = *extent;
	overlay->count++;
}

/* The part of an extent from `skip` on, as one of its own. */
static int extent_tail(const struct overlay_extent *extent, uint64_t skip, struct overlay_extent *ret)
{
	*ret = *extent;
	ret->offset += skip;
	ret->length -= skip;
	ret->source += skip;
	if (!extent->bytes)
		return 0;
	ret->bytes = malloc(ret->length);
	if (!ret->bytes)
		return -ENOMEM;
	memcpy(ret->bytes, extent->bytes + skip, ret->length);
	return 0;
}

/* Makes extents begin at `offset` that now reach across it. */
static int extents_split(struct overlay *overlay, uint64_t offset)
{
	size_t i = extent_find(overlay, offset);
	struct overlay_extent tail;
	int r;

	if (i == overlay->count || overlay->extents[i].offset >= offset)
		return 0;
	r = room_make(overlay, 1);
	if (r == 0)
		r = extent_tail(&overlay->extents[i], offset - overlay->extents[i].offset, &tail);
	if (r)
		return r;
	overlay->extents[i].length = offset - overlay->extents[i].offset;
	extent_insert(overlay, i + 1, &tail);
	return 0;
}

/* Takes away what is planned for the range. */
static int extents_carve(struct overlay *overlay, uint64_t offset, uint64_t end)
{
	size_t first, last;
	int r;

	r = extents_split(overlay, offset);
	if (r == 0 && end != UINT64_MAX)
		r = extents_split(overlay, end);
	if (r)
		return r;
	first = extent_find(overlay, offset);
	for (last = first; last < overlay->count && overlay->extents[last].offset < end; last++)
		free(overlay->extents[last].bytes);
	if (last > first) /* else there may be no list yet */
		memmove(overlay->extents + first, overlay->extents + last, (overlay->count - last) * sizeof(*overlay->extents));
	overlay->count -= last - first;
	return 0;
}

static int extent_put(struct overlay *overlay, const struct overlay_extent *extent)
{
	uint64_t end = extent->offset + extent->length;
	int r;

	if (extent->length == 0)
		return 0;
	r = extents_carve(overlay, extent->offset, end);
	if (r == 0)
		r = room_make(overlay, 1);
	if (r)
		return r;
	extent_insert(overlay, extent_find(overlay, extent->offset), extent);
	if (end > overlay->size)
		overlay->size = end;
	return 0;
}

int overlay_write(struct overlay *overlay, const void *bytes, size_t length, uint64_t offset, unsigned phase)
{
	struct overlay_extent extent = {.offset = offset, .length = length, .bytes = malloc(length + 1), .phase = phase};
	int r;

	if (!extent.bytes)
		return -ENOMEM;
	memcpy(extent.bytes, bytes, length);
	r = length ? extent_put(overlay, &extent) : 0;
	if (r || length == 0)
		free(extent.bytes);
	return r;
}

int overlay_copy(struct overlay *overlay, uint64_t source, uint64_t length, uint64_t offset, unsigned phase)
{
	return extent_put(overlay, &(struct overlay_extent){
		.offset = offset, .length = length, .source = source, .phase = phase,
	});
}

int overlay_resize(struct overlay *overlay, uint64_t size)
{
	int r = size < overlay->size ? extents_carve(overlay, size, UINT64_MAX) : 0;

	if (r)
		return r;
	if (size < overlay->kept)
		overlay->kept = size;
	overlay->size = size;
	return 0;
}

struct overlay_view {
	struct store base;
	struct overlay *overlay;
};

static struct overlay *of(struct store *store)
{
	return ((struct overlay_view *)store)->overlay;
}

static int view_read(struct store *store, void *buffer, size_t length, uint64_t offset)
{
	return overlay_read(of(store), buffer, length, offset);
}

static int view_size(struct store *store, uint64_t *ret)
{
	*ret = of(store)->size;
	return 0;
}

static int view_write(struct store *store, const void *buffer, size_t length, uint64_t offset)
{
	(void)store, (void)buffer, (void)length, (void)offset;
	return -EBADF;
}

static int view_range(struct store *store, uint64_t offset, uint64_t length)
{
	(void)store, (void)offset, (void)length;
	return -EBADF;
}

static int view_truncate(struct store *store, uint64_t size)
{
	(void)store, (void)size;
	return -EBADF;
}

static int view_sync(struct store *store, enum store_barrier why)
{
	(void)store, (void)why;
	return 0;
}

static int view_ring_new(struct store *store, struct ring **ret, struct err *err)
{
	(void)store, (void)ret;
	return err_set(err, -EBADF, "a plan has no ring");
}

static void view_close(struct store *store)
{
	free(store);
}

static const struct store_ops view_ops = {
	.read = view_read,
	.write = view_write,
	.sync = view_sync,
	.allocate = view_range,
	.punch = view_range,
	.truncate = view_truncate,
	.size = view_size,
	.ring_new = view_ring_new,
	.close = view_close,
};

struct store *overlay_store(struct overlay *overlay)
{
	struct overlay_view *view = calloc(1, sizeof(*view));

	if (!view)
		return NULL;
	view->base = (struct store){
		.ops = &view_ops,
		.file = {.fd = -1, .memory_align = 1},
		.read_only = true,
		.offset_align = 1,
		.memory_align = 1,
	};
	view->overlay = overlay;
	return &view->base;
}
