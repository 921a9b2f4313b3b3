/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_HISTOGRAM_H
#define VHD_HISTOGRAM_H

/*
 * Latencies in fixed memory: 32 cells for every doubling, so a percentile is right to about 3 %, and below 32 ns
 * exactly. Adding one is a few instructions.
 */

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 5u
#define HISTOGRAM_CELLS ((64u - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS)

struct histogram {
	uint64_t cells[HISTOGRAM_CELLS];
	uint64_t count;
	uint64_t max;
};

static inline unsigned histogram_cell(uint64_t value)
{
	unsigned shift;

	if (value < 1u << HISTOGRAM_STEP_BITS)
		return (unsigned)value;
	shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_STEP_BITS;
	return ((shift + 1) << HISTOGRAM_STEP_BITS) + (unsigned)((value >> shift) & ((1u << HISTOGRAM_STEP_BITS) - 1));
}

static inline void histogram_add(struct histogram *histogram, uint64_t value)
{
	histogram->cells[histogram_cell(value)]++;
	histogram->count++;
	if (value > histogram->max)
		histogram->max = value;
}

/* Adds what is in `other`. */
void histogram_merge(struct histogram *histogram, const struct histogram *other);

/* The value that `share` (0 to 1) of all values do not exceed, to the upper edge of its cell; 0 when empty. */
uint64_t histogram_percentile(const struct histogram *histogram, double share);

#endif
