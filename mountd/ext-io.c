/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * libext2fs reads and writes its metadata here: a cache of blocks over the volume, written back by ext_io_write_back.
 * Clean blocks beyond CLEAN_MAX are dropped, the longest unused first; dirty ones stay.
 */

#include "mountd/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

#define CLEAN_MAX (8u << 20) /* bytes */
#define BUCKETS 4096u

struct cached {
	struct cached *hash_next;
	struct cached *older, *newer; /* of the clean ones, by last use */
	uint64_t block;
	bool dirty;
	uint8_t data[];
};

struct ext_io {
	struct volume volume;
	uint32_t block_size;
	struct cached *buckets[BUCKETS];
	struct cached *oldest, *newest;
	size_t clean, dirty; /* blocks */
	struct struct_io_channel channel;
};

/* What the manager's open, which gets no pointer of its own, is to open. */
static __thread struct ext_io *opening;

static struct cached **bucket_of(struct ext_io *io, uint64_t block)
{
	return &io->buckets[(block * UINT64_C(0x9e3779b97f4a7c15)) >> 52];
}

static void clean_unlink(struct ext_io *io, struct cached *c)
{
	*(c->older ? &c->older->newer : &io->oldest) = c->newer;
	*(c->newer ? &c->newer->older : &io->newest) = c->older;
	io->clean--;
}

static void clean_link(struct ext_io *io, struct cached *c)
{
	c->older = io->newest;
	c->newer = NULL;
	*(io->newest ? &io->newest->newer : &io->oldest) = c;
	io->newest = c;
	io->clean++;
}

static struct cached *find(struct ext_io *io, uint64_t block)
{
	struct cached *c = *bucket_of(io, block);

	while (c && c->block != block)
		c = c->hash_next;
	if (c && !c->dirty && c != io->newest) {
		clean_unlink(io, c);
		clean_link(io, c);
	}
	return c;
}

static void drop(struct ext_io *io, struct cached *c)
{
	struct cached **p = bucket_of(io, c->block);

	while (*p != c)
		p = &(*p)->hash_next;
	*p = c->hash_next;
	if (c->dirty)
		io->dirty--;
	else
		clean_unlink(io, c);
	free(c);
}

/* A new clean block with undefined content. */
static struct cached *add(struct ext_io *io, uint64_t block)
{
	struct cached **bucket = bucket_of(io, block);
	struct cached *c;

	while (io->clean && io->clean * io->block_size >= CLEAN_MAX)
		drop(io, io->oldest);
	c = malloc(sizeof(*c) + io->block_size);
	if (!c)
		return NULL;
	*c = (struct cached){.block = block, .hash_next = *bucket};
	*bucket = c;
	clean_link(io, c);
	return c;
}

static int read_cached(struct ext_io *io, uint64_t block, struct cached **ret)
{
	struct cached *c = find(io, block);
	uint64_t offset;
	int e;

	if (!c) {
		if (!checked_mul(block, io->block_size, &offset) ||
		    !range_inside(offset, io->block_size, io->volume.size))
			return -EINVAL;
		c = add(io, block);
		if (!c)
			return -ENOMEM;
		e = volume_read(&io->volume, &(struct piece){c->data, io->block_size, offset}, 1);
		if (e) {
			drop(io, c);
			return e;
		}
	}
	*ret = c;
	return 0;
}

int ext_io_peek(struct ext_io *io, uint64_t block, const uint8_t **ret)
{
	struct cached *c;
	int e = read_cached(io, block, &c);

	if (!e)
		*ret = c->data;
	return e;
}

static void make_dirty(struct ext_io *io, struct cached *c)
{
	if (c->dirty)
		return;
	clean_unlink(io, c);
	c->dirty = true;
	io->dirty++;
}

void ext_io_forget(struct ext_io *io, uint64_t block, uint64_t count)
{
	if (count > io->clean + io->dirty) {
		for (unsigned i = 0; i < BUCKETS; i++)
			for (struct cached *c = io->buckets[i], *next; c; c = next) {
				next = c->hash_next;
				if (c->block - block < count)
					drop(io, c);
			}
		return;
	}
	for (uint64_t i = 0; i < count; i++) {
		struct cached *c = find(io, block + i);

		if (c)
			drop(io, c);
	}
}

size_t ext_io_dirty_bytes(const struct ext_io *io)
{
	return io->dirty * io->block_size;
}

static int compare_blocks(const void *a, const void *b)
{
	const struct cached *const *x = a, *const *y = b;

	return ((*x)->block > (*y)->block) - ((*x)->block < (*y)->block);
}

#define GATHER (256u << 10) /* bytes: neighbours are written together */

static int write_gathered(struct ext_io *io, struct cached **blocks, size_t n)
{
	uint8_t *buffer = aligned_alloc(4096, round_up((uint64_t)n * io->block_size, 4096));
	struct piece piece = {buffer, n * io->block_size, blocks[0]->block * io->block_size};
	int e;

	if (!buffer)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		memcpy(buffer + i * io->block_size, blocks[i]->data, io->block_size);
	e = volume_write(&io->volume, &piece, 1);
	free(buffer);
	return e;
}

int ext_io_write_back(struct ext_io *io, ext2fs_block_bitmap only)
{
	struct cached **blocks;
	size_t n = 0;
	int e = 0;

	if (!io->dirty)
		return 0;
	blocks = calloc(io->dirty, sizeof(*blocks));
	if (!blocks)
		return -ENOMEM;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct cached *c = io->buckets[i]; c; c = c->hash_next)
			if (c->dirty && (!only || ext2fs_test_block_bitmap2(only, c->block)))
				blocks[n++] = c;
	qsort(blocks, n, sizeof(*blocks), compare_blocks);
	for (size_t i = 0, run; i < n && !e; i += run) {
		for (run = 1; i + run < n && blocks[i + run]->block == blocks[i]->block + run; run++)
			if ((run + 1) * io->block_size > GATHER)
				break;
		e = write_gathered(io, blocks + i, run);
		for (size_t j = i; !e && j < i + run; j++) {
			blocks[j]->dirty = false;
			io->dirty--;
			clean_link(io, blocks[j]);
		}
	}
	free(blocks);
	while (io->clean && io->clean * io->block_size > CLEAN_MAX)
		drop(io, io->oldest);
	return e;
}

static errcode_t manager_open(const char *name, int flags, io_channel *ret)
{
	struct ext_io *io = opening;

	(void)name;
	(void)flags;
	opening = NULL;
	if (!io)
		return EXT2_ET_BAD_DEVICE_NAME;
	io->channel.refcount++;
	*ret = &io->channel;
	return 0;
}

static errcode_t manager_close(io_channel channel)
{
	channel->refcount--;
	return 0;
}

static errcode_t manager_set_blksize(io_channel channel, int blksize)
{
	struct ext_io *io = channel->private_data;

	if ((uint32_t)blksize == io->block_size)
		return 0;
	if (blksize < 1024 || blksize > 65536 || !is_power_of_two((uint64_t)blksize))
		return EXT2_ET_UNEXPECTED_BLOCK_SIZE;
	if (io->dirty && ext_io_write_back(io, NULL))
		return EXT2_ET_SHORT_WRITE;
	while (io->clean)
		drop(io, io->oldest);
	io->block_size = (uint32_t)blksize;
	channel->block_size = blksize;
	return 0;
}

/* A negative `count` is in bytes. */
static size_t count_bytes(const struct ext_io *io, int count)
{
	return count < 0 ? (size_t)-(int64_t)count : (size_t)count * io->block_size;
}

static errcode_t manager_read(io_channel channel, unsigned long long block, int count, void *data)
{
	struct ext_io *io = channel->private_data;
	size_t left = count_bytes(io, count);
	uint8_t *to = data;

	for (; left; block++) {
		size_t n = left < io->block_size ? left : io->block_size;
		struct cached *c;
		int e = read_cached(io, block, &c);

		if (e == -ENOMEM)
			return EXT2_ET_NO_MEMORY;
		if (e)
			return EXT2_ET_SHORT_READ;
		memcpy(to, c->data, n);
		to += n;
		left -= n;
	}
	return 0;
}

static errcode_t manager_write(io_channel channel, unsigned long long block, int count, const void *data)
{
	struct ext_io *io = channel->private_data;
	size_t left = count_bytes(io, count);
	const uint8_t *from = data;

	for (; left; block++) {
		size_t n = left < io->block_size ? left : io->block_size;
		struct cached *c = find(io, block);
		bool fresh = false;

		if (!c) {
			uint64_t offset;

			if (!checked_mul(block, io->block_size, &offset) ||
			    !range_inside(offset, io->block_size, io->volume.size))
				return EXT2_ET_SHORT_WRITE;
			if (n < io->block_size) {
				if (read_cached(io, block, &c))
					return EXT2_ET_SHORT_READ;
			} else {
				c = add(io, block);
				fresh = true;
			}
			if (!c)
				return EXT2_ET_NO_MEMORY;
		}
		/* Whole bitmaps and descriptors are handed over each time; most are as they were. */
		if (fresh || c->dirty || memcmp(c->data, from, n) != 0) {
			memcpy(c->data, from, n);
			make_dirty(io, c);
		}
		from += n;
		left -= n;
	}
	return 0;
}

static errcode_t manager_read32(io_channel channel, unsigned long block, int count, void *data)
{
	return manager_read(channel, block, count, data);
}

static errcode_t manager_write32(io_channel channel, unsigned long block, int count, const void *data)
{
	return manager_write(channel, block, count, data);
}

/* Barriers are ext_sync_locked's. */
static errcode_t manager_flush(io_channel channel)
{
	(void)channel;
	return 0;
}

static struct struct_io_manager manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "vhd",
	.open = manager_open,
	.close = manager_close,
	.set_blksize = manager_set_blksize,
	.read_blk = manager_read32,
	.write_blk = manager_write32,
	.flush = manager_flush,
	.read_blk64 = manager_read,
	.write_blk64 = manager_write,
};

io_manager ext_io_manager(struct ext_io *io)
{
	opening = io;
	return &manager;
}

int ext_io_new(const struct volume *volume, struct ext_io **ret)
{
	struct ext_io *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	io->volume = *volume;
	io->block_size = 1024;
	io->channel = (struct struct_io_channel){
		.magic = EXT2_ET_MAGIC_IO_CHANNEL,
		.manager = &manager,
		.name = (char *)"vhd",
		.block_size = 1024,
		.private_data = io,
	};
	*ret = io;
	return 0;
}

void ext_io_free(struct ext_io *io)
{
	if (!io)
		return;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct cached *c = io->buckets[i], *next; c; c = next) {
			next = c->hash_next;
			free(c);
		}
	free(io);
}
