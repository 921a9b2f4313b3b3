/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_LAYER_SCAN_H
#define VHD_LAYER_SCAN_H

/* Between the files that open a layer: layer.c, footer-find.c, bat.c. */

#include "vhd/defect.h"

#define LAYER_METADATA_MAX 16u

struct layer_metadata {
	struct byte_range range;
	const char *name; /* for sentences */
};

struct layer_scan {
	struct layer *layer;
	struct defect_scope scope;
	uint64_t end; /* where structures must end: at the footer, else at the end of the file, bytes */
	struct layer_metadata metadata[LAYER_METADATA_MAX]; /* what blocks may not overlap, sorted by offset */
	unsigned metadata_count;
	uint64_t metadata_end;
};

/* Finds the footer that counts: layer->footer and ->footer_source, scan->end. */
int footer_find(struct layer_scan *scan);

/* Reads and validates the BAT: layer->bat, ->allocated, ->payload_aligned; raises ->data_end. */
int bat_load(struct layer_scan *scan);

int layer_read(const struct layer *layer, void *buffer, size_t length, uint64_t offset);

static inline bool ranges_overlap(struct byte_range a, struct byte_range b)
{
	return a.length && b.length && a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

#endif
