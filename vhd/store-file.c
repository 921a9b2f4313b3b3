/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/file-align.h"
#include "vhd/lock.h"

struct store_file {
	struct store base;
	pthread_mutex_t edge_lock; /* held while part of a direct unit is read, changed and written back */
};

static const size_t zero_chunk = 1 << 20;

static int file_pread(int fd, char *buffer, size_t length, uint64_t offset)
{
	while (length > 0) {
		ssize_t n = pread(fd, buffer, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		buffer += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static int file_pwrite(int fd, const char *buffer, size_t length, uint64_t offset)
{
	while (length > 0) {
		ssize_t n = pwrite(fd, buffer, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		buffer += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static bool is_aligned(const struct store *store, const void *buffer, size_t length, uint64_t offset)
{
	return ((offset | length) & (store->offset_align - 1)) == 0 &&
	       ((uintptr_t)buffer & (store->memory_align - 1)) == 0;
}

/*
 * Direct I/O of what is not aligned: the whole units around it go through an aligned buffer. The last unit may reach
 * beyond the end of the file: what was not there counts as zeros, and a write is cut back to what was asked for.
 */
static int bounced_io(struct store *store, void *buffer, size_t length, uint64_t offset, bool write)
{
	struct store_file *s = (struct store_file *)store;
	uint32_t unit = store->offset_align;
	uint64_t start = round_down(offset, unit), end = round_up(offset + length, unit), size;
	size_t span = (size_t)(end - start);
	void *whole;
	int rc;

	rc = store->ops->size(store, &size);
	if (rc)
		return rc;
	if (!write && offset + length > size)
		return -ENODATA;
	if (posix_memalign(&whole, unit > store->memory_align ? unit : store->memory_align, span))
		return -ENOMEM;
	memset(whole, 0, span);
	pthread_mutex_lock(&s->edge_lock);
	rc = file_pread(store->file.fd, whole, span, start);
	if (rc == -ENODATA && offset + length <= size)
		rc = 0;
	if (rc == -ENODATA && write)
		rc = 0;
	if (rc == 0 && write) {
		memcpy((char *)whole + (offset - start), buffer, length);
		rc = file_pwrite(store->file.fd, whole, span, start);
		if (rc == 0 && end > size && ftruncate(store->file.fd, (off_t)(offset + length > size ? offset + length : size)))
			rc = -errno;
	} else if (rc == 0) {
		memcpy(buffer, (char *)whole + (offset - start), length);
	}
	pthread_mutex_unlock(&s->edge_lock);
	free(whole);
	return rc;
}

static int store_file_read(struct store *store, void *buffer, size_t length, uint64_t offset)
{
	if (is_aligned(store, buffer, length, offset))
		return file_pread(store->file.fd, buffer, length, offset);
	return bounced_io(store, buffer, length, offset, false);
}

static int store_file_write(struct store *store, const void *buffer, size_t length, uint64_t offset)
{
	if (is_aligned(store, buffer, length, offset))
		return file_pwrite(store->file.fd, buffer, length, offset);
	return bounced_io(store, (void *)buffer, length, offset, true);
}

static int store_file_sync(struct store *store, enum store_barrier why)
{
	(void)why;
	return fdatasync(store->file.fd) < 0 ? -errno : 0;
}

static int write_zeros(struct store *store, uint64_t offset, uint64_t length)
{
	void *zeros;
	int rc = 0;

	if (posix_memalign(&zeros, 4096, zero_chunk))
		return -ENOMEM;
	memset(zeros, 0, zero_chunk);
	while (rc == 0 && length > 0) {
		size_t n = length < zero_chunk ? (size_t)length : zero_chunk;

		rc = store_file_write(store, zeros, n, offset);
		offset += n;
		length -= n;
	}
	free(zeros);
	return rc;
}

/*
 * ext2 and ext3 layouts have no unwritten extents: after a crash, space of theirs that was only made by ftruncate may
 * show what the disk held before. Other file systems without fallocate (NFS before 4.2, CIFS, ZFS) keep holes zero.
 */
static bool holes_may_turn_stale(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC;
}

static int store_file_allocate(struct store *store, uint64_t offset, uint64_t length)
{
	int fd = store->file.fd;
	uint64_t size;
	int rc;

	while (fallocate(fd, 0, (off_t)offset, (off_t)length) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EOPNOTSUPP)
			return -errno;
		rc = store->ops->size(store, &size);
		if (rc)
			return rc;
		if (holes_may_turn_stale(fd))
			return write_zeros(store, offset, length);
		if (size < offset + length && ftruncate(fd, (off_t)(offset + length)) < 0)
			return -errno;
		return 0;
	}
	return 0;
}

static int store_file_punch(struct store *store, uint64_t offset, uint64_t length)
{
	while (fallocate(store->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0) {
		if (errno == EOPNOTSUPP)
			return write_zeros(store, offset, length);
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static int store_file_truncate(struct store *store, uint64_t size)
{
	return ftruncate(store->file.fd, (off_t)size) < 0 ? -errno : 0;
}

static int store_file_size(struct store *store, uint64_t *ret)
{
	struct stat st;

	if (store->block_device)
		return ioctl(store->file.fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
	if (fstat(store->file.fd, &st) < 0)
		return -errno;
	*ret = (uint64_t)st.st_size;
	return 0;
}

static int store_file_ring_new(struct store *store, struct ring **ret, struct err *err)
{
	(void)store;
	return ring_new(0, ret, err);
}

static int store_file_raise(struct store *store, const char *path, struct store **ret, struct err *err)
{
	char proc[64];
	int fd, rc;

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", store->file.fd);
	fd = open(proc, O_RDWR | (store->direct ? O_DIRECT : 0) | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_set(err, -errno, "%s: opening it for writing failed: %s", path, strerror(errno));
	rc = lock_raise(fd, store->file.fd, path, err);
	if (rc) {
		close(fd);
		return rc;
	}
	return store_file_open_take(fd, path, STORE_WRITE | (store->direct ? STORE_DIRECT : 0), ret, err);
}

static void store_file_lower(struct store *store)
{
	lock_lower(store->file.fd);
	store->read_only = true;
}

static void store_file_close(struct store *store)
{
	struct store_file *s = (struct store_file *)store;

	lock_drop(store->file.fd);
	close(store->file.fd);
	pthread_mutex_destroy(&s->edge_lock);
	free(s);
}

static const struct store_ops store_file_ops = {
	.read = store_file_read,
	.write = store_file_write,
	.sync = store_file_sync,
	.allocate = store_file_allocate,
	.punch = store_file_punch,
	.truncate = store_file_truncate,
	.size = store_file_size,
	.ring_new = store_file_ring_new,
	.raise = store_file_raise,
	.lower = store_file_lower,
	.close = store_file_close,
};

int store_file_open_take(int fd, const char *path, unsigned flags, struct store **ret, struct err *err)
{
	struct file_align align = {1, 1};
	struct store_file *s;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0) {
		rc = err_set(err, -errno, "%s: %s", path, strerror(errno));
		goto fail;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		rc = err_set(err, -EINVAL, "%s: neither a regular file nor a block device", path);
		goto fail;
	}
	if (S_ISBLK(st.st_mode) && (flags & STORE_WRITE)) {
		rc = err_set(err, -EROFS,
		             "%s: a block device, and VHDs on block devices are read only: open it for reading", path);
		goto fail;
	}
	/* O_NONBLOCK was for opening; older kernels' io_uring takes it seriously and fails where the page cache is cold. */
	(void)fcntl(fd, F_SETFL, (flags & STORE_DIRECT) ? O_DIRECT : 0);
	if (flags & STORE_DIRECT)
		align = file_align_direct(fd);
	s = calloc(1, sizeof(*s));
	if (!s) {
		rc = err_set(err, -ENOMEM, "%s: no memory", path);
		goto fail;
	}
	pthread_mutex_init(&s->edge_lock, NULL);
	s->base = (struct store){
		.ops = &store_file_ops,
		.file = {.fd = fd, .memory_align = align.memory_bytes, .length_align = align.offset_bytes},
		.read_only = !(flags & STORE_WRITE),
		.direct = flags & STORE_DIRECT,
		.block_device = S_ISBLK(st.st_mode),
		.offset_align = align.offset_bytes,
		.memory_align = align.memory_bytes,
	};
	*ret = &s->base;
	return 0;
fail:
	close(fd);
	return rc;
}

int store_file_open(const char *path, unsigned flags, struct store **ret, struct err *err)
{
	int mode = (flags & STORE_WRITE) ? O_RDWR : O_RDONLY;
	int fd = open(path, mode | ((flags & STORE_DIRECT) ? O_DIRECT : 0) | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && (flags & STORE_DIRECT) && errno == EINVAL)
		return err_set(err, -EINVAL, "%s: this file system has no direct I/O (O_DIRECT)", path);
	if (fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	return store_file_open_take(fd, path, flags, ret, err);
}
