/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Blocks for files. A file that grows gets its blocks from a stretch that is set aside for it, twice as long each
 * time, so that it lies in few pieces even when many files grow at once; what it does not use is given back when it is
 * closed. A stretch set aside is in the block bitmap, so after a crash e2fsck finds it lost and frees it.
 */

#include "mountd/ext.h"

#include <errno.h>

#define BATCH_MAX_BYTES (64u << 20)
#define BATCH_MIN_BYTES (64u << 10) /* for files: small ones lie in one piece even when many grow at once */
#define TRIES 16 /* stretches that are looked at before the longest of them is taken */

static uint64_t first_block(const struct ext *ext)
{
	return ext->lib->super->s_first_data_block;
}

static uint64_t last_block(const struct ext *ext)
{
	return ext2fs_blocks_count(ext->lib->super) - 1;
}

/* The longest of the first free stretches in [from, to], up to `count`. Returns its length, 0 if all is used. */
static uint64_t find_free(struct ext *ext, uint64_t from, uint64_t to, uint64_t count, uint64_t *ret)
{
	uint64_t best = 0;

	for (int i = 0; i < TRIES && from <= to && best < count; i++) {
		blk64_t start, end;

		if (ext2fs_find_first_zero_block_bitmap2(ext->lib->block_map, from, to, &start))
			break;
		if (ext2fs_find_first_set_block_bitmap2(ext->lib->block_map, start, to, &end))
			end = to + 1;
		if (end - start > best) {
			best = end - start;
			*ret = start;
		}
		from = end + 1;
	}
	return best < count ? best : count;
}

static void release_all(struct ext *ext)
{
	while (ext->reserved)
		alloc_release(ext, ext->reserved);
}

static uint64_t set_aside(struct ext *ext, uint64_t goal, uint64_t count, uint64_t *ret)
{
	uint64_t n;

	if (goal < first_block(ext) || goal > last_block(ext))
		goal = first_block(ext);
	n = find_free(ext, goal, last_block(ext), count, ret);
	if (n < count && n < 64 && goal > first_block(ext)) {
		uint64_t other, m = find_free(ext, first_block(ext), goal - 1, count, &other);

		if (m > n) {
			n = m;
			*ret = other;
		}
	}
	return n;
}

int64_t alloc_blocks(struct ext *ext, struct inode *inode, uint64_t goal, uint64_t count, uint64_t *ret)
{
	if (inode->reserved_count == 0) {
		uint64_t max = BATCH_MAX_BYTES / ext->block_size;
		uint64_t want = inode->batch > count ? inode->batch : count;
		uint64_t start, n;

		if (LINUX_S_ISREG(inode_base(inode)->i_mode) && want < BATCH_MIN_BYTES / ext->block_size)
			want = BATCH_MIN_BYTES / ext->block_size;

		/* Not more than a share of what is left, or one file starves the others. */
		if (max > ext2fs_free_blocks_count(ext->lib->super) / 8)
			max = ext2fs_free_blocks_count(ext->lib->super) / 8;
		if (want > max)
			want = max > count ? max : count;
		n = set_aside(ext, goal, want, &start);
		if (n == 0 && ext->reserved) {
			release_all(ext);
			n = set_aside(ext, goal, count, &start);
		}
		if (n == 0)
			return -ENOSPC;
		ext2fs_block_alloc_stats_range(ext->lib, start, (blk_t)n, +1);
		inode->reserved = start;
		inode->reserved_count = n;
		inode->batch = n * 2;
		inode->reserved_next = ext->reserved;
		ext->reserved = inode;
	}
	if (count > inode->reserved_count)
		count = inode->reserved_count;
	*ret = inode->reserved;
	inode->reserved += count;
	inode->reserved_count -= count;
	if (inode->reserved_count == 0)
		alloc_release(ext, inode);
	return (int64_t)count;
}

void free_blocks(struct ext *ext, uint64_t block, uint64_t count)
{
	ext2fs_block_alloc_stats_range(ext->lib, block, (blk_t)count, -1);
}

void alloc_release(struct ext *ext, struct inode *inode)
{
	struct inode **p = &ext->reserved;

	while (*p && *p != inode)
		p = &(*p)->reserved_next;
	if (!*p)
		return;
	*p = inode->reserved_next;
	inode->reserved_next = NULL;
	if (inode->reserved_count)
		free_blocks(ext, inode->reserved, inode->reserved_count);
	inode->reserved_count = 0;
}
