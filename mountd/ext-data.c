/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The content of files: straight between the caller's memory and the disk, several pieces in flight. */

#include "mountd/ext.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

#define PIECES 64u /* of one read or write that go out together */

static struct inode *inode_of(struct ext *ext, uint64_t node)
{
	struct inode *inode;

	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	pthread_mutex_unlock(&ext->lock);
	return inode;
}

static int64_t read_inline(struct ext *ext, struct inode *inode, uint8_t *buffer, size_t length, uint64_t offset)
{
	size_t size = 0;
	uint8_t *whole = malloc(ext->block_size);
	errcode_t code;

	if (!whole)
		return -ENOMEM;
	pthread_mutex_lock(&ext->lock);
	code = ext2fs_inline_data_get(ext->lib, inode->ino, inode_base(inode), whole, &size);
	pthread_mutex_unlock(&ext->lock);
	if (!code) {
		memset(buffer, 0, length);
		if (offset < size)
			memcpy(buffer, whole + offset, length < size - offset ? length : size - offset);
	}
	free(whole);
	return code ? ext_errno(code) : (int64_t)length;
}

ssize_t ext_read(struct fs *fs, uint64_t node, void *buffer, size_t length, uint64_t offset)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode = inode_of(ext, node);
	struct piece pieces[PIECES];
	uint8_t *to = buffer;
	uint32_t bs = ext->block_size;
	size_t done = 0;
	unsigned n = 0;
	int64_t e = 0;

	pthread_rwlock_rdlock(&inode->data);
	if (offset >= inode_bytes(inode))
		length = 0;
	else if (length > inode_bytes(inode) - offset)
		length = inode_bytes(inode) - offset;
	if (length && (inode_base(inode)->i_flags & EXT4_INLINE_DATA_FL)) {
		e = read_inline(ext, inode, to, length, offset);
		pthread_rwlock_unlock(&inode->data);
		return e;
	}
	while (done < length && !e) {
		uint64_t at = offset + done;
		uint64_t blocks = (at % bs + (length - done) + bs - 1) / bs;
		struct run run;
		size_t bytes;

		e = map_find(ext, inode, false, at / bs, blocks, &run);
		if (e)
			break;
		bytes = run.count * bs - at % bs;
		if (bytes > length - done)
			bytes = length - done;
		if (run.physical && !run.unwritten) {
			pieces[n++] = (struct piece){to + done, bytes, run.physical * bs + at % bs};
			if (n == PIECES) {
				e = volume_read(&ext->volume, pieces, n);
				n = 0;
			}
		} else {
			memset(to + done, 0, bytes);
		}
		done += bytes;
	}
	if (!e && n)
		e = volume_read(&ext->volume, pieces, n);
	pthread_rwlock_unlock(&inode->data);
	return e ? e : (ssize_t)length;
}

/* One stretch of a write that lies together on the disk. */
struct stretch {
	struct run run;
	bool new; /* its blocks belong to no file yet */
};

struct writing {
	struct ext *ext;
	struct inode *inode;
	const uint8_t *from;
	uint64_t offset;
	size_t length;
	struct stretch stretches[PIECES];
	unsigned count;
	size_t covered; /* bytes of `length` */
};

static uint64_t goal_for(struct ext *ext, struct inode *inode, uint64_t logical)
{
	struct run before;

	if (logical > 0 && map_find(ext, inode, true, logical - 1, 1, &before) == 0 && before.physical)
		return before.physical + 1;
	return ext2fs_find_inode_goal(ext->lib, inode->ino, inode_base(inode), logical);
}

/* With ext->lock: finds or takes the blocks for as much as fits into the list. */
static int writing_plan(struct writing *w)
{
	struct ext *ext = w->ext;
	uint32_t bs = ext->block_size;
	uint64_t logical = w->offset / bs, end = (w->offset + w->length + bs - 1) / bs;

	while (logical < end && w->count < PIECES) {
		struct stretch *s = &w->stretches[w->count];
		int e = map_find(ext, w->inode, true, logical, end - logical, &s->run);

		if (e)
			return e;
		s->new = s->run.physical == 0;
		if (s->new) {
			int64_t n = alloc_blocks(ext, w->inode, goal_for(ext, w->inode, logical), s->run.count,
			                         &s->run.physical);

			if (n < 0) {
				if (w->count == 0)
					return (int)n;
				break; /* a short write first */
			}
			s->run.count = (uint64_t)n;
		}
		if (s->new || s->run.unwritten)
			ext_io_forget(ext->io, s->run.physical, s->run.count);
		logical += s->run.count;
		w->count++;
	}
	w->covered = logical * bs - w->offset < w->length ? logical * bs - w->offset : w->length;
	return 0;
}

/*
 * The data of new blocks, padded with zeros to whole ones; `edges` gets the blocks that the write covers in part.
 * Returns how many pieces were added.
 */
static unsigned add_padded(const struct writing *w, const struct run *run, uint64_t start, uint64_t end,
                           uint8_t *edges, struct piece *pieces)
{
	uint32_t bs = w->ext->block_size;
	uint64_t run_start = run->logical * bs, disk = run->physical * bs;
	uint64_t inner = round_up(start, bs), inner_end = round_down(end, bs);
	unsigned n = 0;

	if (start < inner) {
		uint64_t stop = end < inner ? end : inner;

		memset(edges, 0, bs);
		memcpy(edges + start % bs, w->from + (start - w->offset), stop - start);
		pieces[n++] = (struct piece){edges, bs, disk + (round_down(start, bs) - run_start)};
	}
	if (inner < inner_end)
		pieces[n++] = (struct piece){(void *)(w->from + (inner - w->offset)), inner_end - inner,
		                             disk + (inner - run_start)};
	if (inner_end < end && inner_end >= inner) {
		memset(edges + bs, 0, bs);
		memcpy(edges + bs, w->from + (inner_end - w->offset), end - inner_end);
		pieces[n++] = (struct piece){edges + bs, bs, disk + (inner_end - run_start)};
	}
	return n;
}

static int writing_transfer(const struct writing *w)
{
	uint32_t bs = w->ext->block_size;
	struct piece pieces[PIECES * 3];
	uint8_t *edges = NULL;
	unsigned n = 0, padded = 0;
	int e;

	for (unsigned i = 0; i < w->count; i++)
		padded += w->stretches[i].new || w->stretches[i].run.unwritten;
	if (padded) {
		edges = aligned_alloc(4096, round_up((uint64_t)padded * 2 * bs, 4096));
		if (!edges)
			return -ENOMEM;
	}
	padded = 0;
	for (unsigned i = 0; i < w->count; i++) {
		const struct run *run = &w->stretches[i].run;
		uint64_t start = run->logical * bs, end = start + run->count * bs;

		if (start < w->offset)
			start = w->offset;
		if (end > w->offset + w->length)
			end = w->offset + w->length;
		if (w->stretches[i].new || run->unwritten)
			n += add_padded(w, run, start, end, edges + (size_t)padded++ * 2 * bs, pieces + n);
		else
			pieces[n++] = (struct piece){(void *)(w->from + (start - w->offset)), end - start,
			                             run->physical * bs + (start - run->logical * bs)};
	}
	e = volume_write(&w->ext->volume, pieces, n);
	free(edges);
	return e;
}

/* With ext->lock: what a write that failed has mapped behind the end of the file. */
static void drop_beyond_end(struct writing *w)
{
	uint32_t bs = w->ext->block_size;
	uint64_t first = (inode_bytes(w->inode) + bs - 1) / bs, start = w->offset / bs;
	uint64_t last = (w->offset + w->covered - 1) / bs;

	if (first < start)
		first = start;
	if (first <= last && map_remove(w->ext, w->inode, first, last))
		w->ext->failed = true;
}

/* With ext->lock: the written blocks become the file's. */
static int writing_commit(struct writing *w)
{
	struct ext *ext = w->ext;
	uint64_t end;

	ext->unflushed = true;
	for (unsigned i = 0; i < w->count; i++) {
		struct stretch *s = &w->stretches[i];
		int e = 0;

		if (s->new)
			e = map_add(ext, w->inode, s->run.logical, s->run.physical, s->run.count);
		else if (s->run.unwritten)
			e = map_mark_written(ext, w->inode, s->run.logical, s->run.physical, s->run.count);
		if (!e)
			continue;
		for (unsigned j = i + 1; j < w->count; j++)
			if (w->stretches[j].new)
				free_blocks(ext, w->stretches[j].run.physical, w->stretches[j].run.count);
		drop_beyond_end(w);
		return e;
	}
	end = w->offset + w->covered;
	if (end > inode_bytes(w->inode))
		inode_set_size(ext, w->inode, end);
	inode_touch(ext, w->inode, true, true);
	return 0;
}

static void writing_cancel(struct writing *w)
{
	for (unsigned i = 0; i < w->count; i++)
		if (w->stretches[i].new)
			free_blocks(w->ext, w->stretches[i].run.physical, w->stretches[i].run.count);
}

/* One round: as many stretches as fit. With inode->data alone. */
static ssize_t write_some(struct ext *ext, struct inode *inode, const uint8_t *from, size_t length, uint64_t offset)
{
	struct writing w = {.ext = ext, .inode = inode, .from = from, .offset = offset, .length = length};
	int e;

	pthread_mutex_lock(&ext->lock);
	e = ext_begin_change(ext);
	if (!e)
		e = writing_plan(&w);
	if (e)
		writing_cancel(&w);
	pthread_mutex_unlock(&ext->lock);
	if (e)
		return e;
	w.length = w.covered;
	e = writing_transfer(&w);
	pthread_mutex_lock(&ext->lock);
	if (e)
		writing_cancel(&w);
	else
		e = writing_commit(&w);
	pthread_mutex_unlock(&ext->lock);
	return e ? e : (ssize_t)w.covered;
}

/* Zeros for the bytes [from, to) of one block, if it has content. With inode->data alone. */
static int zero_in_block(struct ext *ext, struct inode *inode, uint64_t from, uint64_t to)
{
	uint32_t bs = ext->block_size;
	struct run run;
	int e;

	if (from >= to)
		return 0;
	e = map_find(ext, inode, false, from / bs, 1, &run);
	if (e || run.physical == 0 || run.unwritten)
		return e;
	e = volume_zero(&ext->volume, run.physical * bs + from % bs, to - from);
	pthread_mutex_lock(&ext->lock);
	ext->unflushed = true;
	pthread_mutex_unlock(&ext->lock);
	return e;
}

/* What lies between the end of the file and the end of its last block shows when the file grows. */
static int zero_tail(struct ext *ext, struct inode *inode, uint64_t grown_to)
{
	uint64_t end = inode_bytes(inode), block_end = round_up(end, ext->block_size);

	return zero_in_block(ext, inode, end, grown_to < block_end ? grown_to : block_end);
}

static bool size_is_possible(struct ext *ext, struct inode *inode, uint64_t bytes)
{
	return bytes <= INT64_MAX && (bytes + ext->block_size - 1) / ext->block_size <= map_max_blocks(ext, inode);
}

ssize_t ext_write(struct fs *fs, uint64_t node, const void *buffer, size_t length, uint64_t offset)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode = inode_of(ext, node);
	size_t done = 0;
	ssize_t n = 0;
	uint64_t end;

	if (length == 0)
		return 0;
	if (!checked_add(offset, length, &end) || !size_is_possible(ext, inode, end))
		return -EFBIG;
	pthread_rwlock_wrlock(&inode->data);
	if (offset > inode_bytes(inode))
		n = zero_tail(ext, inode, offset);
	while (n >= 0 && done < length) {
		n = write_some(ext, inode, (const uint8_t *)buffer + done, length - done, offset + done);
		if (n > 0)
			done += (size_t)n;
	}
	pthread_rwlock_unlock(&inode->data);
	return done ? (ssize_t)done : n;
}

int data_truncate(struct ext *ext, struct inode *inode, uint64_t size)
{
	uint32_t bs = ext->block_size;
	uint64_t old = inode_bytes(inode);
	int e = 0;

	if (!LINUX_S_ISREG(inode_base(inode)->i_mode))
		return -EINVAL;
	if (!size_is_possible(ext, inode, size))
		return -EFBIG;
	if (size > old)
		e = zero_tail(ext, inode, size);
	else if (size < old)
		e = zero_in_block(ext, inode, size, round_up(size, bs));
	if (e)
		return e;
	pthread_mutex_lock(&ext->lock);
	inode_set_size(ext, inode, size);
	if (size < old) {
		alloc_release(ext, inode);
		e = map_remove(ext, inode, (size + bs - 1) / bs, UINT64_MAX);
	}
	inode_touch(ext, inode, true, true);
	pthread_mutex_unlock(&ext->lock);
	return e;
}

static int punch(struct ext *ext, struct inode *inode, uint64_t offset, uint64_t end)
{
	uint32_t bs = ext->block_size;
	uint64_t first = (offset + bs - 1) / bs, last = end / bs;
	int e = 0;

	if (first > last)
		return zero_in_block(ext, inode, offset, end);
	e = zero_in_block(ext, inode, offset, first * bs);
	if (!e)
		e = zero_in_block(ext, inode, last * bs, end);
	if (!e && first < last) {
		pthread_mutex_lock(&ext->lock);
		e = map_remove(ext, inode, first, last - 1);
		pthread_mutex_unlock(&ext->lock);
	}
	return e;
}

static int preallocate(struct ext *ext, struct inode *inode, uint64_t offset, uint64_t end)
{
	uint32_t bs = ext->block_size;
	int e;

	if (!(inode_base(inode)->i_flags & EXT4_EXTENTS_FL))
		return -EOPNOTSUPP;
	pthread_mutex_lock(&ext->lock);
	while (ext->reserved)
		alloc_release(ext, ext->reserved);
	e = freed_settle(ext, (end + bs - 1) / bs - offset / bs);
	if (!e) {
		errcode_t code = ext2fs_fallocate(ext->lib, 0, inode->ino, inode_base(inode), ~0ULL, offset / bs,
		                                  (end + bs - 1) / bs - offset / bs);

		e = code ? ext_errno(code) : 0;
		inode_dirty(ext, inode);
		map_forget(inode);
	}
	pthread_mutex_unlock(&ext->lock);
	return e;
}

int ext_fallocate(struct fs *fs, uint64_t node, int mode, uint64_t offset, uint64_t length)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode = inode_of(ext, node);
	uint64_t end;
	int e;

	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	if (!checked_add(offset, length, &end) || !size_is_possible(ext, inode, end))
		return -EFBIG;
	pthread_mutex_lock(&ext->lock);
	e = ext_begin_change(ext);
	pthread_mutex_unlock(&ext->lock);
	if (e)
		return e;
	pthread_rwlock_wrlock(&inode->data);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > inode_bytes(inode))
		e = zero_tail(ext, inode, end);
	if (!e && (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
		e = punch(ext, inode, offset, end);
	if (!e && !(mode & FALLOC_FL_PUNCH_HOLE))
		e = preallocate(ext, inode, offset, end);
	pthread_mutex_lock(&ext->lock);
	if (!e && !(mode & FALLOC_FL_KEEP_SIZE) && end > inode_bytes(inode))
		inode_set_size(ext, inode, end);
	inode_touch(ext, inode, true, true);
	pthread_mutex_unlock(&ext->lock);
	pthread_rwlock_unlock(&inode->data);
	return e;
}

int64_t ext_seek(struct fs *fs, uint64_t node, uint64_t offset, bool hole)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode = inode_of(ext, node);
	uint32_t bs = ext->block_size;
	uint64_t size, at = offset;
	int64_t result = -ENXIO;

	pthread_rwlock_rdlock(&inode->data);
	size = inode_bytes(inode);
	if (inode_base(inode)->i_flags & EXT4_INLINE_DATA_FL)
		result = offset >= size ? -ENXIO : (int64_t)(hole ? size : offset);
	else
		while (at < size) {
			struct run run;
			int e = map_find(ext, inode, false, at / bs, (size - at) / bs + 2, &run);

			if (e) {
				result = e;
				break;
			}
			if ((run.physical == 0 || run.unwritten) == hole) {
				result = (int64_t)at;
				break;
			}
			at = (run.logical + run.count) * bs;
			if (at >= size && hole)
				result = (int64_t)size;
		}
	pthread_rwlock_unlock(&inode->data);
	return result;
}
