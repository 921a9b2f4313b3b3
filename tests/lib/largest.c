/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/largest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "vhd/vhd.h"

#define BLOCK (UINT64_C(2) << 20)
#define BLOCKS ((uint32_t)(VHD_MAX_SIZE / BLOCK))
#define BITMAP 512u
#define STRIDE (BLOCK + 4096)
#define TABLE_OFFSET 4096
#define START ((UINT64_C(8) << 20) - BITMAP)

static int put(int fd, const void *bytes, size_t length, uint64_t offset)
{
	ssize_t n = pwrite(fd, bytes, length, (off_t)offset);

	if (n < 0)
		return -errno;
	return (size_t)n == length ? 0 : -ENOSPC;
}

static int blocks_allocate(int fd, be32 *entries)
{
	uint8_t footer[512], ones[BITMAP];
	int rc = pread(fd, footer, sizeof(footer), 0) == sizeof(footer) ? 0 : -EIO;

	memset(ones, 0xff, sizeof(ones));
	for (uint32_t i = 0; i < BLOCKS && rc == 0; i++) {
		entries[i] = be32_make((uint32_t)((START + i * STRIDE) / 512));
		if (i % 64 == 0)
			rc = put(fd, ones, sizeof(ones), START + i * STRIDE);
	}
	if (rc == 0)
		rc = put(fd, entries, (size_t)BLOCKS * sizeof(*entries), TABLE_OFFSET);
	return rc ? rc : put(fd, footer, sizeof(footer), START + BLOCKS * STRIDE);
}

int largest_create(const char *path, const char *parent, struct err *err)
{
	struct vhd_create_options options = {.parent = parent, .size_bytes = parent ? 0 : VHD_MAX_SIZE};
	be32 *entries = malloc((size_t)BLOCKS * sizeof(*entries));
	int rc = entries ? vhd_create(path, &options, err) : err_set(err, -ENOMEM, "no memory for a BAT"), fd;

	if (rc == 0) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		rc = fd < 0 ? -errno : blocks_allocate(fd, entries);
		if (fd >= 0)
			close(fd);
		if (rc)
			err_set(err, rc, "%s: allocating every block: %s", path, strerror(-rc));
	}
	free(entries);
	return rc;
}
