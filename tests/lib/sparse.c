/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/sparse.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES 4096u
#define LEAF_CHUNKS 1024u /* a leaf of the tree covers 4 MiB */

struct sparse_chunk {
	unsigned references; /* atomic */
	uint8_t bytes[CHUNK_BYTES];
};

static void *memory_or_abort(void *memory)
{
	if (!memory)
		abort();
	return memory;
}

static void chunk_drop(struct sparse_chunk *chunk)
{
	if (chunk && __atomic_sub_fetch(&chunk->references, 1, __ATOMIC_ACQ_REL) == 0)
		free(chunk);
}

static struct sparse_chunk *chunk_find(const struct sparse *sparse, uint64_t index)
{
	size_t leaf = index / LEAF_CHUNKS;

	if (leaf >= sparse->top_count || !sparse->top[leaf])
		return NULL;
	return sparse->top[leaf][index % LEAF_CHUNKS];
}

/* The chunk as one that belongs to this file alone. */
static struct sparse_chunk *chunk_own(struct sparse *sparse, uint64_t index)
{
	size_t leaf = index / LEAF_CHUNKS;
	struct sparse_chunk **place, *chunk;

	if (leaf >= sparse->top_count) {
		size_t count = leaf + 1;

		sparse->top = memory_or_abort(reallocarray(sparse->top, count, sizeof(*sparse->top)));
		memset(sparse->top + sparse->top_count, 0, (count - sparse->top_count) * sizeof(*sparse->top));
		sparse->top_count = count;
	}
	if (!sparse->top[leaf])
		sparse->top[leaf] = memory_or_abort(calloc(LEAF_CHUNKS, sizeof(**sparse->top)));
	place = &sparse->top[leaf][index % LEAF_CHUNKS];
	if (*place && __atomic_load_n(&(*place)->references, __ATOMIC_ACQUIRE) == 1)
		return *place;
	if (*place) {
		chunk = memory_or_abort(malloc(sizeof(*chunk)));
		memcpy(chunk->bytes, (*place)->bytes, CHUNK_BYTES);
		chunk_drop(*place);
	} else {
		chunk = memory_or_abort(calloc(1, sizeof(*chunk)));
	}
	chunk->references = 1;
	*place = chunk;
	return chunk;
}

static void chunk_forget(struct sparse *sparse, uint64_t index)
{
	size_t leaf = index / LEAF_CHUNKS;

	chunk_drop(sparse->top[leaf][index % LEAF_CHUNKS]);
	sparse->top[leaf][index % LEAF_CHUNKS] = NULL;
}

void sparse_init(struct sparse *sparse)
{
	memset(sparse, 0, sizeof(*sparse));
}

void sparse_done(struct sparse *sparse)
{
	for (size_t leaf = 0; leaf < sparse->top_count; leaf++) {
		for (size_t i = 0; sparse->top[leaf] && i < LEAF_CHUNKS; i++)
			chunk_drop(sparse->top[leaf][i]);
		free(sparse->top[leaf]);
	}
	free(sparse->top);
	sparse_init(sparse);
}

void sparse_clone(const struct sparse *from, struct sparse *ret)
{
	sparse_init(ret);
	ret->size = from->size;
	ret->top_count = from->top_count;
	if (ret->top_count)
		ret->top = memory_or_abort(calloc(ret->top_count, sizeof(*ret->top)));
	for (size_t leaf = 0; leaf < from->top_count; leaf++) {
		if (!from->top[leaf])
			continue;
		ret->top[leaf] = memory_or_abort(malloc(LEAF_CHUNKS * sizeof(**ret->top)));
		memcpy(ret->top[leaf], from->top[leaf], LEAF_CHUNKS * sizeof(**ret->top));
		for (size_t i = 0; i < LEAF_CHUNKS; i++)
			if (ret->top[leaf][i])
				__atomic_add_fetch(&ret->top[leaf][i]->references, 1, __ATOMIC_RELAXED);
	}
}

void sparse_read(const struct sparse *sparse, void *buffer, size_t length, uint64_t offset)
{
	uint8_t *to = buffer;

	while (length) {
		size_t inside = offset % CHUNK_BYTES;
		size_t part = length < CHUNK_BYTES - inside ? length : CHUNK_BYTES - inside;
		const struct sparse_chunk *chunk = chunk_find(sparse, offset / CHUNK_BYTES);

		if (chunk)
			memcpy(to, chunk->bytes + inside, part);
		else
			memset(to, 0, part);
		to += part;
		offset += part;
		length -= part;
	}
}

void sparse_write(struct sparse *sparse, const void *buffer, size_t length, uint64_t offset)
{
	const uint8_t *from = buffer;

	if (length && offset + length > sparse->size)
		sparse->size = offset + length;
	while (length) {
		size_t inside = offset % CHUNK_BYTES;
		size_t part = length < CHUNK_BYTES - inside ? length : CHUNK_BYTES - inside;

		memcpy(chunk_own(sparse, offset / CHUNK_BYTES)->bytes + inside, from, part);
		from += part;
		offset += part;
		length -= part;
	}
}

void sparse_zero(struct sparse *sparse, uint64_t offset, uint64_t length)
{
	while (length) {
		uint64_t index = offset / CHUNK_BYTES;
		size_t inside = offset % CHUNK_BYTES;
		uint64_t part = length < CHUNK_BYTES - inside ? length : CHUNK_BYTES - inside;

		if (index / LEAF_CHUNKS >= sparse->top_count)
			return;
		if (!sparse->top[index / LEAF_CHUNKS]) {
			uint64_t next = (index / LEAF_CHUNKS + 1) * (uint64_t)LEAF_CHUNKS * CHUNK_BYTES;

			part = length < next - offset ? length : next - offset;
		} else if (chunk_find(sparse, index)) {
			if (part == CHUNK_BYTES)
				chunk_forget(sparse, index);
			else
				memset(chunk_own(sparse, index)->bytes + inside, 0, part);
		}
		offset += part;
		length -= part;
	}
}

void sparse_truncate(struct sparse *sparse, uint64_t size)
{
	if (size < sparse->size)
		sparse_zero(sparse, size, sparse->size - size);
	sparse->size = size;
}

uint64_t sparse_used_bytes(const struct sparse *sparse)
{
	uint64_t used = 0;

	for (size_t leaf = 0; leaf < sparse->top_count; leaf++)
		for (size_t i = 0; sparse->top[leaf] && i < LEAF_CHUNKS; i++)
			used += sparse->top[leaf][i] ? CHUNK_BYTES : 0;
	return used;
}

int sparse_save(const struct sparse *sparse, const char *path)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
	int rc = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)sparse->size) < 0)
		rc = -errno;
	for (size_t leaf = 0; rc == 0 && leaf < sparse->top_count; leaf++) {
		for (size_t i = 0; rc == 0 && sparse->top[leaf] && i < LEAF_CHUNKS; i++) {
			uint64_t offset = ((uint64_t)leaf * LEAF_CHUNKS + i) * CHUNK_BYTES;
			size_t length = CHUNK_BYTES;

			if (!sparse->top[leaf][i] || offset >= sparse->size)
				continue;
			if (length > sparse->size - offset)
				length = sparse->size - offset;
			if (pwrite(fd, sparse->top[leaf][i]->bytes, length, (off_t)offset) != (ssize_t)length)
				rc = errno ? -errno : -EIO;
		}
	}
	if (close(fd) < 0 && rc == 0)
		rc = -errno;
	return rc;
}

int sparse_load(struct sparse *ret, const char *path)
{
	static const uint8_t zeros[CHUNK_BYTES];
	uint8_t buffer[CHUNK_BYTES];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t offset = 0, end;
	int rc = 0;

	sparse_init(ret);
	if (fd < 0)
		return -errno;
	end = lseek(fd, 0, SEEK_END);
	while (offset < end) {
		ssize_t got;

		offset = lseek(fd, offset, SEEK_DATA);
		if (offset < 0) {
			rc = errno == ENXIO ? 0 : -errno;
			break;
		}
		offset -= offset % CHUNK_BYTES;
		got = pread(fd, buffer, CHUNK_BYTES, offset);
		if (got <= 0) {
			rc = got < 0 ? -errno : -EIO;
			break;
		}
		if (memcmp(buffer, zeros, (size_t)got) != 0)
			sparse_write(ret, buffer, (size_t)got, (uint64_t)offset);
		offset += CHUNK_BYTES;
	}
	if (end > 0)
		ret->size = (uint64_t)end;
	close(fd);
	if (rc < 0)
		sparse_done(ret);
	return rc;
}
