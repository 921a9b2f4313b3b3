/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/bitmap.h"

#include <stdlib.h>
#include <string.h>

static uint32_t word_count(uint32_t sectors)
{
	return (sectors + 63) / 64;
}

/* The bits of one word from bit `first` (0 is the highest) on, `count` of them. */
static uint64_t word_mask(uint32_t first, uint32_t count)
{
	uint64_t ones = count == 64 ? UINT64_MAX : ~(UINT64_MAX >> count);

	return ones >> first;
}

struct bitmap *bitmap_new(uint32_t block, uint32_t sectors)
{
	struct bitmap *b = calloc(1, sizeof(*b) + word_count(sectors) * sizeof(uint64_t));

	if (b) {
		b->block = block;
		b->sectors = sectors;
	}
	return b;
}

void bitmap_decode(struct bitmap *b, const uint8_t *bytes)
{
	uint32_t set = 0;

	for (uint32_t w = 0; w < word_count(b->sectors); w++) {
		uint32_t valid = b->sectors - w * 64 < 64 ? b->sectors - w * 64 : 64;
		uint64_t word = 0;

		for (uint32_t i = 0; i < (valid + 7) / 8; i++)
			word |= (uint64_t)bytes[w * 8 + i] << (56 - 8 * i);
		word &= word_mask(0, valid);
		atomic_store_explicit(&b->words[w], word, memory_order_relaxed);
		set += (uint32_t)__builtin_popcountll(word);
	}
	b->set = set;
}

void bitmap_encode(const struct bitmap *b, uint8_t *ret, uint32_t length)
{
	memset(ret, 0, length);
	for (uint32_t i = 0; i < (b->sectors + 7) / 8; i++)
		ret[i] = (uint8_t)(atomic_load_explicit(&b->words[i / 8], memory_order_relaxed) >> (56 - 8 * (i % 8)));
}

bool bitmap_set(struct bitmap *b, uint32_t first, uint32_t count)
{
	uint32_t news = 0;

	while (count > 0) {
		uint32_t in_word = first % 64;
		uint32_t n = 64 - in_word < count ? 64 - in_word : count;
		uint64_t mask = word_mask(in_word, n);
		/* Release: whoever sees the bit may read the sector, whose write was complete before. Pairs with bitmap_run. */
		uint64_t old = atomic_fetch_or_explicit(&b->words[first / 64], mask, memory_order_release);

		news += (uint32_t)__builtin_popcountll(mask & ~old);
		first += n;
		count -= n;
	}
	b->set += news;
	return news > 0;
}

uint32_t bitmap_run(const struct bitmap *b, uint32_t first, uint32_t max, bool *ret_set)
{
	uint32_t run = 0;
	bool set = false;

	while (run < max) {
		uint32_t at = first + run, in_word = at % 64;
		uint32_t n = 64 - in_word < max - run ? 64 - in_word : max - run;
		uint64_t word = atomic_load_explicit(&b->words[at / 64], memory_order_acquire) << in_word;
		uint32_t same;

		if (run == 0)
			set = word >> 63;
		if (set)
			word = ~word;
		same = word ? (uint32_t)__builtin_clzll(word) : 64;
		if (same < n) {
			run += same;
			break;
		}
		run += n;
	}
	*ret_set = set;
	return run;
}
