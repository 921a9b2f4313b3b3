/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/store-memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/checked.h"
#include "tests/lib/ring-inline.h"

#define MEMORY_FILE_MAX (UINT64_C(4) << 40)

struct memory_file {
	pthread_mutex_t lock;
	struct sparse content; /* under `lock` */
};

struct store_memory {
	struct store base;
	struct memory_file *file;
};

struct memory_file *memory_file_new(struct sparse *content_take)
{
	struct memory_file *file = calloc(1, sizeof(*file));

	if (!file)
		abort();
	pthread_mutex_init(&file->lock, NULL);
	if (content_take) {
		file->content = *content_take;
		sparse_init(content_take);
	}
	return file;
}

void memory_file_free(struct memory_file *file)
{
	if (!file)
		return;
	sparse_done(&file->content);
	pthread_mutex_destroy(&file->lock);
	free(file);
}

void memory_file_content(struct memory_file *file, struct sparse *ret)
{
	pthread_mutex_lock(&file->lock);
	sparse_clone(&file->content, ret);
	pthread_mutex_unlock(&file->lock);
}

static struct memory_file *file_lock(struct store *store)
{
	struct memory_file *file = ((struct store_memory *)store)->file;

	pthread_mutex_lock(&file->lock);
	return file;
}

static int memory_read(struct store *store, void *buffer, size_t length, uint64_t offset)
{
	struct memory_file *file = file_lock(store);
	int rc = range_inside(offset, length, file->content.size) ? 0 : -ENODATA;

	if (rc == 0)
		sparse_read(&file->content, buffer, length, offset);
	pthread_mutex_unlock(&file->lock);
	return rc;
}

static int memory_write(struct store *store, const void *buffer, size_t length, uint64_t offset)
{
	struct memory_file *file;

	if (store->read_only)
		return -EBADF;
	if (!range_inside(offset, length, MEMORY_FILE_MAX))
		return -EFBIG;
	file = file_lock(store);
	sparse_write(&file->content, buffer, length, offset);
	pthread_mutex_unlock(&file->lock);
	return 0;
}

static int memory_sync(struct store *store, enum store_barrier why)
{
	(void)store;
	(void)why;
	return 0;
}

static int memory_allocate(struct store *store, uint64_t offset, uint64_t length)
{
	struct memory_file *file;

	if (store->read_only)
		return -EBADF;
	if (!range_inside(offset, length, MEMORY_FILE_MAX))
		return -EFBIG;
	file = file_lock(store);
	if (file->content.size < offset + length)
		sparse_truncate(&file->content, offset + length);
	pthread_mutex_unlock(&file->lock);
	return 0;
}

static int memory_punch(struct store *store, uint64_t offset, uint64_t length)
{
	struct memory_file *file;
	uint64_t end;

	if (store->read_only)
		return -EBADF;
	if (length == 0 || !checked_add(offset, length, &end))
		return -EINVAL;
	file = file_lock(store);
	if (end > file->content.size)
		end = file->content.size;
	if (offset < end)
		sparse_zero(&file->content, offset, end - offset);
	pthread_mutex_unlock(&file->lock);
	return 0;
}

static int memory_truncate(struct store *store, uint64_t size)
{
	struct memory_file *file;

	if (store->read_only)
		return -EINVAL;
	if (size > MEMORY_FILE_MAX)
		return -EFBIG;
	file = file_lock(store);
	sparse_truncate(&file->content, size);
	pthread_mutex_unlock(&file->lock);
	return 0;
}

static int memory_size(struct store *store, uint64_t *ret)
{
	struct memory_file *file = file_lock(store);

	*ret = file->content.size;
	pthread_mutex_unlock(&file->lock);
	return 0;
}

static void memory_close(struct store *store)
{
	free(store);
}

static int memory_raise(struct store *store, const char *path, struct store **ret, struct err *err)
{
	(void)path;
	(void)err;
	*ret = store_memory_open(((struct store_memory *)store)->file, STORE_WRITE | (store->direct ? STORE_DIRECT : 0));
	return 0;
}

static void memory_lower(struct store *store)
{
	store->read_only = true;
}

static const struct store_ops memory_ops = {
	.read = memory_read,
	.write = memory_write,
	.sync = memory_sync,
	.allocate = memory_allocate,
	.punch = memory_punch,
	.truncate = memory_truncate,
	.size = memory_size,
	.ring_new = ring_inline_store_ring_new,
	.raise = memory_raise,
	.lower = memory_lower,
	.close = memory_close,
};

struct store *store_memory_open(struct memory_file *file, unsigned flags)
{
	struct store_memory *s = calloc(1, sizeof(*s));
	uint32_t align = (flags & STORE_DIRECT) ? 512 : 1;

	if (!s)
		abort();
	s->base = (struct store){
		.ops = &memory_ops,
		.file = {.fd = -1, .memory_align = align},
		.read_only = !(flags & STORE_WRITE),
		.direct = flags & STORE_DIRECT,
		.offset_align = align,
		.memory_align = align,
	};
	s->file = file;
	return &s->base;
}
