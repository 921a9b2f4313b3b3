/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Where a file's blocks are: extent trees (through the library) and the block maps of ext2 and ext3. */

#include "mountd/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

#define EXTENT_MAX 32767u /* blocks in one extent that the library and the kernel both take */

#define PASSED_MAX 1000u /* extents that are skipped before the first that counts */
#define SCAN_MAX 65536u /* pointers that are looked at in one go: a file may be one hole of terabytes */

static bool has_extents(struct inode *inode)
{
	return inode_base(inode)->i_flags & EXT4_EXTENTS_FL;
}

static bool block_is_sane(const struct ext *ext, uint64_t block, uint64_t count)
{
	uint64_t total = ext2fs_blocks_count(ext->lib->super);

	return block > ext->lib->super->s_first_data_block && block < total && count <= total - block;
}

static struct run_cache *cache_of(struct inode *inode)
{
	struct run_cache *c = inode->runs;

	if (!c) {
		c = calloc(1, sizeof(*c));
		if (!c)
			return NULL;
		pthread_mutex_init(&c->lock, NULL);
		inode->runs = c;
	}
	return c;
}

void map_forget(struct inode *inode)
{
	struct run_cache *c = inode->runs;

	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	c->count = 0;
	c->from = c->to = 0;
	pthread_mutex_unlock(&c->lock);
}

/* The runs under construction; `to` grows with each. */
static bool cache_push(struct run_cache *c, struct run run)
{
	struct run *last = c->count ? &c->runs[c->count - 1] : NULL;

	if (last && last->logical + last->count == run.logical && last->physical + last->count == run.physical &&
	    last->unwritten == run.unwritten) {
		last->count += run.count;
	} else {
		if (c->count == RUNS_MAX)
			return false;
		c->runs[c->count++] = run;
	}
	c->to = run.logical + run.count;
	return true;
}

static int load_extents(struct ext *ext, struct inode *inode, uint64_t logical, struct run_cache *c)
{
	ext2_extent_handle_t handle;
	struct ext2fs_extent extent;
	uint64_t reached = logical;
	unsigned passed = 0;
	errcode_t code;
	int e = 0;

	code = ext2fs_extent_open2(ext->lib, inode->ino, inode_base(inode), &handle);
	if (code)
		return ext_errno(code);
	code = ext2fs_extent_goto(handle, logical);
	if (code == EXT2_ET_EXTENT_NOT_FOUND)
		code = 0;
	if (!code)
		code = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &extent);
	while (!code) {
		uint64_t end = extent.e_lblk + extent.e_len;

		/* The one before `logical`, and what is left of an emptied node; a damaged tree could have no end. */
		if ((extent.e_flags & EXT2_EXTENT_FLAGS_LEAF) && end <= reached && ++passed > PASSED_MAX) {
			e = -EUCLEAN;
			break;
		}
		if ((extent.e_flags & EXT2_EXTENT_FLAGS_LEAF) && end > reached) {
			struct run run = {extent.e_lblk, extent.e_pblk, extent.e_len,
			                  extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT};

			/* Out of order, or not in the file system. */
			if ((run.logical < reached && reached > logical) || !block_is_sane(ext, run.physical, run.count)) {
				e = -EUCLEAN;
				break;
			}
			if (!cache_push(c, run))
				break;
			reached = end;
		}
		code = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT_LEAF, &extent);
	}
	ext2fs_extent_free(handle);
	if (e)
		return e;
	if (code == EXT2_ET_EXTENT_NO_NEXT || code == EXT2_ET_NO_CURRENT_NODE)
		c->to = UINT64_MAX;
	else if (code)
		return ext_errno(code);
	return 0;
}

/* The pointers on the way to a block of a file without extents: the last one names the block itself. */
struct path {
	unsigned depth;
	uint32_t slot[4]; /* slot[0] in the inode's i_block */
	uint32_t after;   /* how many blocks, from this one on, share the last pointer block */
};

static bool path_of(const struct ext *ext, uint64_t logical, struct path *ret)
{
	uint64_t per = ext->block_size / 4, left = logical;

	if (left < EXT2_NDIR_BLOCKS) {
		*ret = (struct path){1, {(uint32_t)left}, (uint32_t)(EXT2_NDIR_BLOCKS - left)};
		return true;
	}
	left -= EXT2_NDIR_BLOCKS;
	for (unsigned levels = 1; levels <= 3; levels++) {
		uint64_t span = 1;

		for (unsigned i = 0; i < levels; i++)
			span *= per;
		if (left >= span) {
			left -= span;
			continue;
		}
		ret->depth = levels + 1;
		ret->slot[0] = EXT2_NDIR_BLOCKS + levels - 1;
		for (unsigned i = levels; i >= 1; i--) {
			ret->slot[i] = (uint32_t)(left % per);
			left /= per;
		}
		ret->after = (uint32_t)(per - ret->slot[levels]);
		return true;
	}
	return false;
}

static int load_blocks(struct ext *ext, struct inode *inode, uint64_t logical, struct run_cache *c)
{
	struct ext2_inode *base = inode_base(inode);
	uint64_t end = (inode_bytes(inode) + ext->block_size - 1) / ext->block_size;

	/* A new block is mapped before the size says so. */
	if (end <= logical)
		end = logical + 1;
	if (end - logical > SCAN_MAX)
		end = logical + SCAN_MAX;
	c->to = logical;
	while (logical < end) {
		const uint8_t *block = (const uint8_t *)base->i_block;
		struct path path;
		bool hole = false;

		if (!path_of(ext, logical, &path))
			return -EFBIG;
		for (unsigned i = 0; i + 1 < path.depth && !hole; i++) {
			uint32_t next = i ? le32_get(((const le32 *)block)[path.slot[i]]) : base->i_block[path.slot[0]];
			int e;

			if (next == 0) {
				hole = true;
				break;
			}
			if (!block_is_sane(ext, next, 1))
				return -EUCLEAN;
			e = ext_io_peek(ext->io, next, &block);
			if (e)
				return e;
		}
		for (uint32_t i = 0; i < path.after && logical < end; i++, logical++) {
			uint32_t slot = path.slot[path.depth - 1] + i;
			uint32_t b = hole ? 0 : path.depth == 1 ? base->i_block[slot] : le32_get(((const le32 *)block)[slot]);

			if (b && !block_is_sane(ext, b, 1))
				return -EUCLEAN;
			if (b && !cache_push(c, (struct run){logical, b, 1, false}))
				return 0;
			c->to = logical + 1;
		}
	}
	return 0;
}

uint64_t map_max_blocks(const struct ext *ext, struct inode *inode)
{
	uint64_t per = ext->block_size / 4, max, counted;

	if (has_extents(inode))
		return UINT32_MAX - 1;
	max = EXT2_NDIR_BLOCKS + per + per * per + per * per * per;
	/* i_blocks counts sectors, with 32 bits; a margin for the pointer blocks. */
	counted = (UINT64_C(1) << 32) / (ext->block_size / 512);
	counted -= counted / 128;
	return max < counted ? max : counted;
}

int map_load(struct ext *ext, struct inode *inode, uint64_t logical)
{
	struct run_cache *c = cache_of(inode);
	int e;

	if (!c)
		return -ENOMEM;
	pthread_mutex_lock(&c->lock);
	c->count = 0;
	c->from = c->to = logical;
	e = has_extents(inode) ? load_extents(ext, inode, logical, c) : load_blocks(ext, inode, logical, c);
	if (e) {
		c->count = 0;
		c->from = c->to = 0;
	} else if (c->to <= logical) {
		c->to = logical + 1;
	}
	pthread_mutex_unlock(&c->lock);
	return e;
}

static bool cache_find(struct run_cache *c, uint64_t logical, uint64_t count, struct run *ret)
{
	unsigned low = 0, high = c->count;
	uint64_t end;

	if (logical < c->from || logical >= c->to)
		return false;
	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (c->runs[mid].logical + c->runs[mid].count <= logical)
			low = mid + 1;
		else
			high = mid;
	}
	end = c->to - logical > count ? logical + count : c->to;
	*ret = (struct run){.logical = logical};
	if (low < c->count && c->runs[low].logical <= logical) {
		const struct run *r = &c->runs[low];

		ret->physical = r->physical + (logical - r->logical);
		ret->unwritten = r->unwritten;
		if (end > r->logical + r->count)
			end = r->logical + r->count;
	} else if (low < c->count && end > c->runs[low].logical) {
		end = c->runs[low].logical;
	}
	ret->count = end - logical;
	return true;
}

int map_find(struct ext *ext, struct inode *inode, bool locked, uint64_t logical, uint64_t count, struct run *ret)
{
	struct run_cache *c = __atomic_load_n(&inode->runs, __ATOMIC_ACQUIRE);

	for (int tries = 0; tries < 100; tries++) {
		bool found = false;
		int e;

		if (c) {
			pthread_mutex_lock(&c->lock);
			found = cache_find(c, logical, count, ret);
			pthread_mutex_unlock(&c->lock);
		}
		if (found)
			return 0;
		if (!locked)
			pthread_mutex_lock(&ext->lock);
		e = map_load(ext, inode, logical);
		c = inode->runs;
		if (!e) {
			/* Taken before another thread can load another part of the file. */
			pthread_mutex_lock(&c->lock);
			found = cache_find(c, logical, count, ret);
			pthread_mutex_unlock(&c->lock);
		}
		if (!locked)
			pthread_mutex_unlock(&ext->lock);
		if (e)
			return e;
		if (found)
			return 0;
	}
	return -EIO;
}

static int add_extent(struct ext *ext, struct inode *inode, uint64_t logical, uint64_t physical, uint64_t count)
{
	ext2_extent_handle_t handle;
	struct ext2fs_extent extent, add = {.e_lblk = logical, .e_pblk = physical, .e_len = (__u32)count,
	                                    .e_flags = EXT2_EXTENT_FLAGS_LEAF};
	errcode_t code;

	code = ext2fs_extent_open2(ext->lib, inode->ino, inode_base(inode), &handle);
	if (code)
		return ext_errno(code);
	code = ext2fs_extent_goto(handle, logical);
	if (code == 0) {
		code = EXT2_ET_INODE_CORRUPTED;
		goto done;
	}
	if (code != EXT2_ET_EXTENT_NOT_FOUND)
		goto done;
	code = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &extent);
	if (code == EXT2_ET_NO_CURRENT_NODE) {
		code = ext2fs_extent_insert(handle, 0, &add);
	} else if (code) {
		goto done;
	} else if (extent.e_lblk + extent.e_len == logical && extent.e_pblk + extent.e_len == physical &&
	           !(extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT) && extent.e_len + count <= EXTENT_MAX) {
		extent.e_len += (__u32)count;
		code = ext2fs_extent_replace(handle, 0, &extent);
	} else {
		code = ext2fs_extent_insert(handle, logical < extent.e_lblk ? 0 : EXT2_EXTENT_INSERT_AFTER, &add);
		if (!code)
			code = ext2fs_extent_fix_parents(handle);
	}
done:
	ext2fs_extent_free(handle);
	return code ? ext_errno(code) : 0;
}

/* A zeroed pointer block. */
static int new_pointer_block(struct ext *ext, struct inode *inode, uint64_t goal, uint32_t *ret)
{
	errcode_t code;
	blk64_t block;

	code = ext2fs_alloc_block2(ext->lib, goal, NULL, &block);
	if (code == EXT2_ET_BLOCK_ALLOC_FAIL && ext->reserved) {
		while (ext->reserved)
			alloc_release(ext, ext->reserved);
		code = ext2fs_alloc_block2(ext->lib, goal, NULL, &block);
	}
	if (code)
		return ext_errno(code);
	inode_add_blocks(ext, inode, 1);
	*ret = (uint32_t)block;
	return 0;
}

static int set_pointer(struct ext *ext, uint32_t pointer_block, uint32_t slot, const uint32_t *values, uint32_t count)
{
	uint8_t *copy = malloc(ext->block_size);
	const uint8_t *old;
	errcode_t code;
	int e;

	if (!copy)
		return -ENOMEM;
	e = ext_io_peek(ext->io, pointer_block, &old);
	if (!e) {
		memcpy(copy, old, ext->block_size);
		for (uint32_t i = 0; i < count; i++)
			memcpy(copy + (slot + i) * 4, (uint8_t[4]){(uint8_t)values[i], (uint8_t)(values[i] >> 8),
			       (uint8_t)(values[i] >> 16), (uint8_t)(values[i] >> 24)}, 4);
		code = io_channel_write_blk64(ext->lib->io, pointer_block, 1, copy);
		e = code ? ext_errno(code) : 0;
	}
	free(copy);
	return e;
}

/* Some of the blocks: those that share a pointer block. Returns how many. */
static int64_t add_pointers(struct ext *ext, struct inode *inode, uint64_t logical, uint64_t physical, uint64_t count)
{
	struct ext2_inode *base = inode_base(inode);
	uint32_t parent = 0, *values;
	struct path path;
	int e;

	if (!path_of(ext, logical, &path))
		return -EFBIG;
	if (physical + count > UINT32_MAX)
		return -EFBIG;
	if (count > path.after)
		count = path.after;
	if (path.depth == 1) {
		for (uint64_t i = 0; i < count; i++)
			base->i_block[path.slot[0] + i] = (uint32_t)(physical + i);
		return (int64_t)count;
	}
	for (unsigned i = 0; i + 1 < path.depth; i++) {
		uint32_t next;

		if (i == 0) {
			next = base->i_block[path.slot[0]];
		} else {
			const uint8_t *block;

			e = ext_io_peek(ext->io, parent, &block);
			if (e)
				return e;
			next = le32_get(((const le32 *)block)[path.slot[i]]);
		}
		if (next == 0) {
			e = new_pointer_block(ext, inode, physical, &next);
			if (e)
				return e;
			if (i == 0)
				base->i_block[path.slot[0]] = next;
			else
				e = set_pointer(ext, parent, path.slot[i], &next, 1);
			if (e)
				return e;
		} else if (!block_is_sane(ext, next, 1)) {
			return -EUCLEAN;
		}
		parent = next;
	}
	values = calloc(count, sizeof(*values));
	if (!values)
		return -ENOMEM;
	for (uint64_t i = 0; i < count; i++)
		values[i] = (uint32_t)(physical + i);
	e = set_pointer(ext, parent, path.slot[path.depth - 1], values, (uint32_t)count);
	free(values);
	return e ? e : (int64_t)count;
}

/* What was just mapped stays known, so that a file that grows is never read back. */
static void cache_added(struct inode *inode, struct run run)
{
	struct run_cache *c = inode->runs;
	bool kept = false;

	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	if (run.logical >= c->from && run.logical <= c->to &&
	    (c->count == 0 || c->runs[c->count - 1].logical + c->runs[c->count - 1].count <= run.logical)) {
		uint64_t to = c->to;

		kept = cache_push(c, run);
		if (c->to < to)
			c->to = to;
	}
	if (!kept) {
		c->count = 0;
		c->from = c->to = 0;
	}
	pthread_mutex_unlock(&c->lock);
}

int map_add(struct ext *ext, struct inode *inode, uint64_t logical, uint64_t physical, uint64_t count)
{
	while (count) {
		int64_t n;

		if (has_extents(inode)) {
			n = count > EXTENT_MAX ? EXTENT_MAX : (int64_t)count;
			int e = add_extent(ext, inode, logical, physical, (uint64_t)n);

			if (e == -ENOSPC && ext->reserved) {
				while (ext->reserved)
					alloc_release(ext, ext->reserved);
				e = add_extent(ext, inode, logical, physical, (uint64_t)n);
			}
			if (e)
				n = e;
		} else {
			n = add_pointers(ext, inode, logical, physical, count);
		}
		inode_dirty(ext, inode);
		if (n < 0) {
			map_forget(inode);
			/* The caller owns what is not mapped; here that is what is left. */
			free_blocks(ext, physical, count);
			return (int)n;
		}
		inode_add_blocks(ext, inode, (uint64_t)n);
		fresh_blocks(ext, physical, (uint64_t)n);
		cache_added(inode, (struct run){logical, physical, (uint64_t)n, false});
		logical += (uint64_t)n;
		physical += (uint64_t)n;
		count -= (uint64_t)n;
	}
	return 0;
}

int map_mark_written(struct ext *ext, struct inode *inode, uint64_t logical, uint64_t physical, uint64_t count)
{
	ext2_extent_handle_t handle;
	errcode_t code;

	code = ext2fs_extent_open2(ext->lib, inode->ino, inode_base(inode), &handle);
	if (code)
		return ext_errno(code);
	for (uint64_t i = 0; i < count && !code; i++)
		code = ext2fs_extent_set_bmap(handle, logical + i, physical + i, 0);
	ext2fs_extent_free(handle);
	inode_dirty(ext, inode);
	map_forget(inode);
	return code ? ext_errno(code) : 0;
}

int map_remove(struct ext *ext, struct inode *inode, uint64_t first, uint64_t last)
{
	struct ext2_super_block *super = ext->lib->super;
	uint64_t blocks = ext2fs_blocks_count(super);
	errcode_t code;

	/*
	 * e2fsprogs 1.47.0, ext2fs_punch: a stretch that ends with the file system's last block counts as beyond it, and is
	 * neither freed nor kept. One block more, for as long as that takes, is the way around.
	 */
	if (blocks < UINT32_MAX || ext2fs_has_feature_64bit(super))
		ext2fs_blocks_count_set(super, blocks + 1);
	code = ext2fs_punch(ext->lib, inode->ino, inode_base(inode), NULL, first, last);
	ext2fs_blocks_count_set(super, blocks);
	inode_dirty(ext, inode);
	map_forget(inode);
	return code ? ext_errno(code) : 0;
}
