/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_DISK_H
#define MOUNTD_DISK_H

/*
 * A disk for the many threads of a mount: each gets a queue of its own when it first needs one, freed when it ends.
 * Everything here blocks and may be called from any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/blk.h"
#include "common/err.h"

struct disk;

/* `blk` is borrowed. */
int disk_new(struct blk *blk, struct disk **ret, struct err *err);

/* All other threads that used it must have ended. NULL-safe. */
void disk_free(struct disk *disk);

uint64_t disk_size(const struct disk *disk); /* bytes */

/* It has grown. Volumes that were cut out of it before stay as they are. */
void disk_resized(struct disk *disk, uint64_t size);
struct blk *disk_blk(const struct disk *disk);

/* A window of a disk: the whole of it or a partition. */
struct volume {
	struct disk *disk;
	uint64_t offset; /* bytes */
	uint64_t size;   /* bytes */
};

/* Memory and the place in the volume that it goes to or comes from. */
struct piece {
	void *memory;
	size_t length;   /* bytes, any */
	uint64_t offset; /* bytes in the volume, any */
};

/*
 * All pieces, several in flight at once. 0 or the first -errno; -EINVAL: beyond the volume. Writers of pieces that share
 * a sector must be serialised by the caller.
 */
int volume_read(const struct volume *volume, const struct piece *pieces, size_t count);
int volume_write(const struct volume *volume, const struct piece *pieces, size_t count);
int volume_flush(const struct volume *volume);
/* The range reads as zeros afterwards; any bytes. */
int volume_zero(const struct volume *volume, uint64_t offset, uint64_t length);

#endif
