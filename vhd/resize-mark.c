/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/resize-mark.h"

#include <string.h>

#define DOUBLINGS_MAX 40u /* from the smallest file with a footer far beyond the largest disk */

struct mark_disk {
	uint8_t tag[16];
	be64 offset, file_size;
};

#define MARK_AT (sizeof(((struct footer_disk *)NULL)->reserved) - sizeof(struct mark_disk))

static const uint8_t tags[][16] = {
	[RESIZE_MARK_GROWING] = "vhdkit growing",
	[RESIZE_MARK_SHRINKING] = "vhdkit shrinking",
};

static struct mark_disk mark_read(const struct footer *footer)
{
	struct mark_disk mark;

	memcpy(&mark, footer->raw.reserved + MARK_AT, sizeof(mark));
	return mark;
}

enum resize_mark resize_mark_get(const struct footer *footer)
{
	struct mark_disk mark = mark_read(footer);

	if (!memcmp(mark.tag, tags[RESIZE_MARK_GROWING], sizeof(mark.tag)))
		return RESIZE_MARK_GROWING;
	if (!memcmp(mark.tag, tags[RESIZE_MARK_SHRINKING], sizeof(mark.tag)))
		return RESIZE_MARK_SHRINKING;
	return RESIZE_MARK_NONE;
}

void resize_mark_set(struct footer *footer, enum resize_mark kind, uint64_t offset, uint64_t file_size)
{
	struct mark_disk mark;

	/* What another program may keep there is not ours to clear. */
	if (kind == RESIZE_MARK_NONE && resize_mark_get(footer) == RESIZE_MARK_NONE)
		return;
	memset(&mark, 0, sizeof(mark));
	if (kind != RESIZE_MARK_NONE) {
		memcpy(mark.tag, tags[kind], sizeof(mark.tag));
		mark.offset = be64_make(offset);
		mark.file_size = be64_make(file_size);
	}
	memcpy(footer->raw.reserved + MARK_AT, &mark, sizeof(mark));
}

uint64_t growing_file_size(uint64_t offset, uint64_t end)
{
	uint64_t size = offset + VHD_SECTOR;
	unsigned doublings = 0;

	do {
		size *= 2;
		doublings++;
	} while (size < end);
	return size + doublings;
}

bool growing_footer_offset(uint64_t file_size, uint64_t *ret)
{
	unsigned doublings = file_size % VHD_SECTOR;
	uint64_t size = file_size - doublings;

	if (doublings == 0 || doublings > DOUBLINGS_MAX || size == 0 || size % ((uint64_t)VHD_SECTOR << doublings))
		return false;
	*ret = (size >> doublings) - VHD_SECTOR;
	return true;
}

bool resize_mark_holds(const struct footer *footer, uint64_t offset, uint64_t file_size)
{
	struct mark_disk mark = mark_read(footer);

	return footer->type == VHD_FIXED && footer->current_size <= offset &&
	       resize_mark_get(footer) == RESIZE_MARK_GROWING && be64_get(mark.offset) == offset &&
	       be64_get(mark.file_size) == file_size;
}
