/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_UNUSED_H
#define MOUNTD_UNUSED_H

/*
 * Which bytes of a disk no file system uses: the free blocks of the ext2, ext3, ext4 and NTFS file systems on it, where
 * that is certain. Whoever believes the list destroys what it names, so a file system about which there is any doubt (not
 * unmounted cleanly, recorded errors, a bitmap that contradicts a checksum, a count or its own metadata, an unknown
 * feature) is left out as a whole. Space outside of file systems is never unused: boot loaders and volume managers live
 * there. What the file system itself would trust for its next write, its bitmap, is trusted here; files are not walked.
 *
 * A hostile disk makes these functions fail, leave out, or take long; the caller bounds memory and time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "mountd/disk.h"

#define UNUSED_MAX (1u << 20) /* ranges in a list */

struct unused_range {
	uint64_t offset, length; /* bytes */
};

/* Ascending, neither overlapping nor touching. All zero: empty. */
struct unused_list {
	struct unused_range *ranges;
	size_t count, capacity;
	size_t max;          /* 0: UNUSED_MAX */
	uint64_t min_length; /* shorter ones were left out, so that there are no more than `max` */
};

/* `offset` is not before the end of what was added last. 0 or -ENOMEM. */
int unused_add(struct unused_list *list, uint64_t offset, uint64_t length);
uint64_t unused_bytes(const struct unused_list *list);
void unused_list_done(struct unused_list *list);

/* What was found in a partition, or on a disk without a table. */
struct unused_volume {
	unsigned partition; /* 0: the whole disk */
	const char *type;   /* "ext4", "ntfs", ...; what it seems to be if it was left out */
	uint64_t offset, length;
	uint64_t unused;     /* bytes */
	const char *problem; /* NULL, or the sentence on why it was left out */
};

/*
 * Fills `ret` (all zero before, the caller's to free in any case) with offsets on the disk. `found` is told of each volume
 * in the order of their offsets. 0 also when nothing is known; -EBADMSG: the partition table is damaged; -errno: the disk
 * cannot be read, no memory.
 */
int unused_find(struct disk *disk, struct unused_list *ret, void (*found)(void *user, const struct unused_volume *volume),
                void *user, struct err *err);

/*
 * One file system: adds its free blocks, with offsets in the volume, to `ret`, and says what it is. On failure `ret` holds
 * no meaning; the sentence says why nothing is certain.
 */
int unused_ext(const struct volume *volume, struct unused_list *ret, const char **type, struct err *err);

/* -EOPNOTSUPP in a build without libntfs-3g. */
int unused_ntfs(const struct volume *volume, struct unused_list *ret, struct err *err);

/* Adds the runs of clear bits: bit i stands for `unit` bytes at base + i * unit. */
int unused_add_clear_bits(struct unused_list *list, const uint8_t *bits, uint64_t count, uint64_t base, uint64_t unit);

#endif
