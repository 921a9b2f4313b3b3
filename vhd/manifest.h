/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_MANIFEST_H
#define VHD_MANIFEST_H

/*
 * What a disk held: a hash of each block that is not all zeros. As text (vhd(1), "MANIFESTS"):
 *
 *     vhdkit-manifest version=1 hash=xxh3-128 size=136365211648 block-size=2097152
 *     block 0 99aa06d3014798d86001c324468d497f
 *     block 512 ...
 *     content <hash of all blocks' hashes in order, zero blocks too, 16 bytes each, big-endian>
 *     manifest <hash of the text before this line>
 *
 * The last block ends with the disk and may be short.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <xxhash.h>

#include "common/err.h"

#define MANIFEST_BLOCK_MIN (4u << 10)
#define MANIFEST_BLOCK_MAX (16u << 20)
#define MANIFEST_BLOCK_DEFAULT (2u << 20)

struct manifest_entry {
	uint64_t block;
	XXH128_hash_t hash;
};

struct manifest {
	uint64_t size;       /* of the disk, bytes */
	uint32_t block_size; /* bytes; a power of two */
	struct manifest_entry *entries; /* owned; blocks ascending */
	size_t count, room;
	XXH128_hash_t content;
};

void manifest_done(struct manifest *manifest);

/* Blocks are added in ascending order. 0 or -ENOMEM. */
int manifest_add(struct manifest *manifest, uint64_t block, XXH128_hash_t hash);

uint64_t manifest_block_count(const struct manifest *manifest);

/* Computes `content` from the rest. 0 or -ENOMEM. */
int manifest_finish(struct manifest *manifest);

/* 0 or -errno from the stream or for want of memory. */
int manifest_write(const struct manifest *manifest, FILE *out);

/*
 * `content` is as written, not computed anew: when all blocks equal a disk's and it does not, the manifest is wrong.
 * -EBADMSG: damaged, or no manifest; the sentence says where. -errno from reading it.
 */
int manifest_read(const char *path, struct manifest *ret, struct err *err);

/* The same for text in memory, which it changes. `path` is for sentences. */
int manifest_parse(const char *path, char *text, size_t length, struct manifest *ret, struct err *err);

#endif
