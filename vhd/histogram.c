/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/histogram.h"

void histogram_merge(struct histogram *histogram, const struct histogram *other)
{
	for (unsigned i = 0; i < HISTOGRAM_CELLS; i++)
		histogram->cells[i] += other->cells[i];
	histogram->count += other->count;
	if (other->max > histogram->max)
		histogram->max = other->max;
}

/* The largest value that falls into the cell. */
static uint64_t cell_top(unsigned cell)
{
	unsigned shift = cell >> HISTOGRAM_STEP_BITS;
	uint64_t step = cell & ((1u << HISTOGRAM_STEP_BITS) - 1);

	if (shift == 0)
		return step;
	shift--;
	return (((UINT64_C(1) << HISTOGRAM_STEP_BITS) + step) << shift) + ((UINT64_C(1) << shift) - 1);
}

uint64_t histogram_percentile(const struct histogram *histogram, double share)
{
	uint64_t want = (uint64_t)(share * (double)histogram->count), seen = 0;

	if (histogram->count == 0)
		return 0;
	if (want >= histogram->count)
		want = histogram->count - 1;
	for (unsigned i = 0; i < HISTOGRAM_CELLS; i++) {
		seen += histogram->cells[i];
		if (seen > want)
			return cell_top(i) < histogram->max ? cell_top(i) : histogram->max;
	}
	return histogram->max;
}
