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
#define SPARE 4096u /* blocks: more than one change, of which none is larger than a write of 1 MiB, can need */

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
		if (n == 0 && ext->freed_block_count) {
			int e = ext_sync_locked(ext);

			if (e)
				return e;
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

/* What the library frees one by one was a file's. (Stretches, by free_blocks, were only set aside.) */
static void block_stats(ext2_filsys lib, blk64_t block, int inuse)
{
	struct ext *ext = lib->priv_data;

	if (inuse > 0)
		ext2fs_mark_block_bitmap2(ext->fresh_blocks, block);
	if (inuse > 0 || ext2fs_test_block_bitmap2(ext->freed_blocks, block))
		return;
	ext2fs_mark_block_bitmap2(lib->block_map, block);
	ext2fs_mark_block_bitmap2(ext->freed_blocks, block);
	ext->freed_block_count++;
}

int freed_init(struct ext *ext)
{
	errcode_t code = ext2fs_allocate_block_bitmap(ext->lib, "freed blocks", &ext->freed_blocks);

	if (!code)
		code = ext2fs_allocate_block_bitmap(ext->lib, "fresh blocks", &ext->fresh_blocks);
	if (!code)
		code = ext2fs_allocate_inode_bitmap(ext->lib, "freed inodes", &ext->freed_inodes);
	if (code)
		return ext_errno(code);
	ext2fs_set_block_alloc_stats_callback(ext->lib, block_stats, NULL);
	return 0;
}

void freed_done(struct ext *ext)
{
	if (ext->freed_blocks)
		ext2fs_free_block_bitmap(ext->freed_blocks);
	if (ext->fresh_blocks)
		ext2fs_free_block_bitmap(ext->fresh_blocks);
	if (ext->freed_inodes)
		ext2fs_free_inode_bitmap(ext->freed_inodes);
}

void freed_inode(struct ext *ext, ext2_ino_t ino)
{
	ext2fs_mark_inode_bitmap2(ext->lib->inode_map, ino);
	ext2fs_mark_inode_bitmap2(ext->freed_inodes, ino);
	ext->freed_inode_count++;
}

void freed_hide(struct ext *ext, bool hidden)
{
	blk64_t from = first_block(ext), start, end;
	ext2_ino_t ino = 0;

	while (ext->freed_block_count && from <= last_block(ext) &&
	       !ext2fs_find_first_set_block_bitmap2(ext->freed_blocks, from, last_block(ext), &start)) {
		if (ext2fs_find_first_zero_block_bitmap2(ext->freed_blocks, start, last_block(ext), &end))
			end = last_block(ext) + 1;
		if (hidden)
			ext2fs_mark_block_bitmap_range2(ext->lib->block_map, start, (unsigned)(end - start));
		else
			ext2fs_unmark_block_bitmap_range2(ext->lib->block_map, start, (unsigned)(end - start));
		from = end;
	}
	while (ext->freed_inode_count && ino < ext->lib->super->s_inodes_count &&
	       !ext2fs_find_first_set_inode_bitmap2(ext->freed_inodes, ino + 1, ext->lib->super->s_inodes_count, &ino)) {
		if (hidden)
			ext2fs_mark_inode_bitmap2(ext->lib->inode_map, ino);
		else
			ext2fs_unmark_inode_bitmap2(ext->lib->inode_map, ino);
	}
}

void freed_forget(struct ext *ext)
{
	if (ext->freed_block_count)
		ext2fs_clear_block_bitmap(ext->freed_blocks);
	if (ext->freed_inode_count)
		ext2fs_clear_inode_bitmap(ext->freed_inodes);
	ext2fs_clear_block_bitmap(ext->fresh_blocks);
	ext->freed_block_count = ext->freed_inode_count = 0;
}

void fresh_blocks(struct ext *ext, uint64_t block, uint64_t count)
{
	ext2fs_mark_block_bitmap_range2(ext->fresh_blocks, block, (unsigned)count);
}

int freed_settle(struct ext *ext, uint64_t blocks)
{
	uint64_t free = ext2fs_free_blocks_count(ext->lib->super);

	/* The super block of a damaged file system may say anything. */
	if (ext->freed_block_count == 0 || (free >= ext->freed_block_count && free - ext->freed_block_count >= blocks + SPARE))
		return 0;
	return ext_sync_locked(ext);
}
