/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_DISK_H
#define TESTS_LIB_DISK_H

/*
 * Disks for the engine's tests, in memory: images of a chain made by image-builder.h, and what the disk they make up
 * reads as.
 */

#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/store-memory.h"

#define DISK_LAYERS 32u

enum disk_type {
	DISK_FIXED,
	DISK_DYNAMIC,
	DISK_DIFFERENCING,
};

struct disk_spec {
	enum disk_type type;
	uint64_t size;       /* bytes */
	uint32_t block_size; /* bytes; fixed disks: 0 */
	unsigned layers;     /* differencing: 2 at least, the base included */
	unsigned blocks;     /* that each layer has allocated, at most 16; random ones */
	bool partial;        /* ... with some bits of their bitmaps clear */
	bool stale;          /* ... and other bytes than zeros where they are */
	uint64_t seed;
};

struct disk {
	unsigned layers;
	struct memory_file *files[DISK_LAYERS]; /* 0: the leaf */
	uint64_t size;
	uint8_t *content; /* `size` bytes */
};

void disk_make(const struct disk_spec *spec, struct disk *ret);
void disk_done(struct disk *disk);

#endif
