/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdlib.h>

#include "mountd/unused.h"

#define CAPACITY_FIRST 64u
#define MIN_LENGTH_FIRST 4096u /* bytes */

/*
 * Leaves out the short ones until a quarter of the places is free, so that a disk in shreds costs no more memory than
 * another one. The last one may still grow.
 */
static void thin_out(struct unused_list *list, size_t max)
{
	while (list->count > max - max / 4) {
		size_t kept = 0;

		list->min_length = list->min_length ? list->min_length * 2 : MIN_LENGTH_FIRST;
		for (size_t i = 0; i < list->count; i++)
			if (list->ranges[i].length >= list->min_length || i == list->count - 1)
				list->ranges[kept++] = list->ranges[i];
		list->count = kept;
	}
}

int unused_add(struct unused_list *list, uint64_t offset, uint64_t length)
{
	size_t max = list->max ? list->max : UNUSED_MAX;

	if (length == 0)
		return 0;
	if (list->count) {
		struct unused_range *last = &list->ranges[list->count - 1];

		if (offset == last->offset + last->length) {
			last->length += length;
			return 0;
		}
		if (last->length < list->min_length)
			list->count--;
	}
	if (list->count == max)
		thin_out(list, max);
	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? list->capacity * 2 : CAPACITY_FIRST;
		struct unused_range *ranges = reallocarray(list->ranges, capacity, sizeof(*ranges));

		if (!ranges)
			return -ENOMEM;
		list->ranges = ranges;
		list->capacity = capacity;
	}
	list->ranges[list->count++] = (struct unused_range){offset, length};
	return 0;
}

int unused_add_clear_bits(struct unused_list *list, const uint8_t *bits, uint64_t count, uint64_t base, uint64_t unit)
{
	uint64_t i = 0, start;
	int e = 0;

	while (i < count && !e) {
		while (i < count && (bits[i / 8] >> i % 8 & 1))
			i += i % 8 == 0 && bits[i / 8] == 0xff ? 8 : 1;
		start = i;
		while (i < count && !(bits[i / 8] >> i % 8 & 1))
			i += i % 8 == 0 && bits[i / 8] == 0 ? 8 : 1;
		if (i > count)
			i = count;
		if (start < i)
			e = unused_add(list, base + start * unit, (i - start) * unit);
	}
	return e;
}

uint64_t unused_bytes(const struct unused_list *list)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < list->count; i++)
		sum += list->ranges[i].length;
	return sum;
}

void unused_list_done(struct unused_list *list)
{
	free(list->ranges);
	*list = (struct unused_list){0};
}
