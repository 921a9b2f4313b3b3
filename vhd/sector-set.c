/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/sector-set.h"

#include <errno.h>
#include <stdlib.h>

/* Never written to, nor read: only its address counts. */
static const uint64_t full_mark;

uint64_t *sector_set_full(void)
{
	return (uint64_t *)&full_mark;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* How many sectors of the disk the chunk has. */
static uint32_t chunk_sectors(const struct sector_set *set, uint32_t chunk)
{
	return (uint32_t)min64(SECTOR_SET_CHUNK, set->sectors - (uint64_t)chunk * SECTOR_SET_CHUNK);
}

int sector_set_init(struct sector_set *set, uint64_t sectors)
{
	uint32_t count = (uint32_t)((sectors + SECTOR_SET_CHUNK - 1) / SECTOR_SET_CHUNK);

	*set = (struct sector_set){.sectors = sectors, .chunk_count = count};
	if (count == 0)
		return 0;
	set->chunks = calloc(count, sizeof(*set->chunks));
	return set->chunks ? 0 : -ENOMEM;
}

void sector_set_done(struct sector_set *set)
{
	for (uint32_t i = 0; set->chunks && i < set->chunk_count; i++)
		if (set->chunks[i] != sector_set_full())
			free(set->chunks[i]);
	free(set->chunks);
	*set = (struct sector_set){0};
}

static uint64_t word_mask(uint32_t first, uint32_t count)
{
	uint64_t ones = count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1;

	return ones << first;
}

static bool bits_are_full(const uint64_t *words, uint32_t sectors)
{
	for (uint32_t w = 0; w * 64 < sectors; w++) {
		uint64_t mask = word_mask(0, sectors - w * 64 < 64 ? sectors - w * 64 : 64);

		if ((words[w] & mask) != mask)
			return false;
	}
	return true;
}

static void chunk_fill(struct sector_set *set, uint32_t chunk)
{
	if (set->chunks[chunk] != sector_set_full())
		free(set->chunks[chunk]);
	set->chunks[chunk] = sector_set_full();
}

static int chunk_add(struct sector_set *set, uint32_t chunk, uint32_t first, uint32_t count)
{
	uint32_t sectors = chunk_sectors(set, chunk);
	uint64_t *words = set->chunks[chunk];

	if (words == sector_set_full())
		return 0;
	if (count == sectors) {
		chunk_fill(set, chunk);
		return 0;
	}
	if (!words) {
		words = calloc(SECTOR_SET_WORDS, sizeof(*words));
		if (!words)
			return -ENOMEM;
		set->chunks[chunk] = words;
	}
	while (count > 0) {
		uint32_t in_word = first % 64, n = 64 - in_word < count ? 64 - in_word : count;

		words[first / 64] |= word_mask(in_word, n);
		first += n;
		count -= n;
	}
	/* Whoever adds in order fills a chunk at its end: only then is it worth a look. */
	if (first == sectors && bits_are_full(words, sectors))
		chunk_fill(set, chunk);
	return 0;
}

int sector_set_add(struct sector_set *set, uint64_t first, uint64_t count)
{
	uint64_t end = first < set->sectors ? first + min64(count, set->sectors - first) : first;

	while (first < end) {
		uint32_t chunk = (uint32_t)(first / SECTOR_SET_CHUNK), in_chunk = (uint32_t)(first % SECTOR_SET_CHUNK);
		uint32_t n = (uint32_t)min64(SECTOR_SET_CHUNK - in_chunk, end - first);
		int rc = chunk_add(set, chunk, in_chunk, n);

		if (rc)
			return rc;
		first += n;
	}
	return 0;
}

int sector_set_union(struct sector_set *set, const struct sector_set *other)
{
	struct sector_run run;

	for (uint64_t at = 0; sector_set_next(other, at, &run); at = run.first + run.count) {
		int rc = sector_set_add(set, run.first, run.count);

		if (rc)
			return rc;
	}
	return 0;
}

/*
 * How many sectors from `first` of the chunk on, up to its end, are alike in being in the set or not. Bits behind the
 * disk's end are never set.
 */
static uint32_t chunk_run(const struct sector_set *set, uint32_t chunk, uint32_t first, bool *ret_in)
{
	uint32_t sectors = chunk_sectors(set, chunk), at = first;
	const uint64_t *words = set->chunks[chunk];

	*ret_in = words != NULL;
	if (!words || words == sector_set_full())
		return sectors - first;
	*ret_in = words[first / 64] >> first % 64 & 1;
	while (at < sectors) {
		uint64_t word = *ret_in ? ~words[at / 64] : words[at / 64]; /* bits 1: where the run ends */

		word >>= at % 64;
		if (word) {
			at += (uint32_t)__builtin_ctzll(word);
			break;
		}
		at += 64 - at % 64;
	}
	return (at < sectors ? at : sectors) - first;
}

bool sector_set_next(const struct sector_set *set, uint64_t from, struct sector_run *ret)
{
	bool found = false;

	while (from < set->sectors) {
		bool in;
		uint32_t n = chunk_run(set, (uint32_t)(from / SECTOR_SET_CHUNK), (uint32_t)(from % SECTOR_SET_CHUNK), &in);

		if (in && !found)
			*ret = (struct sector_run){from, n};
		else if (in)
			ret->count += n;
		else if (found)
			break;
		found = found || in;
		from += n;
	}
	return found;
}

uint64_t sector_set_count(const struct sector_set *set)
{
	struct sector_run run;
	uint64_t count = 0;

	for (uint64_t at = 0; sector_set_next(set, at, &run); at = run.first + run.count)
		count += run.count;
	return count;
}
