/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/staged.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/lock.h"

/* Says what stands where the new file is to be. */
static int target_check(const char *path, bool overwrite, struct staged *file, struct err *err)
{
	struct stat st;

	if (lstat(path, &st) < 0) {
		if (errno != ENOENT)
			return err_set(err, -errno, "%s: %s", path, strerror(errno));
		file->path = strdup(path);
		return file->path ? 0 : err_set(err, -ENOMEM, "out of memory");
	}
	if (!overwrite)
		return err_set(err, -EEXIST, "%s: exists already", path);
	file->path = realpath(path, NULL);
	if (!file->path || stat(file->path, &st) < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: is no regular file, and cannot be replaced by one", path);
	file->replaced_fd = open(file->path, O_RDWR | O_CLOEXEC);
	if (file->replaced_fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	return lock_take(file->replaced_fd, path, true, err);
}

static int temporary_name(struct staged *file, struct err *err)
{
	const char *slash = strrchr(file->path, '/');
	const char *base = slash ? slash + 1 : file->path;
	unsigned long long random;

	if (*base == '\0')
		return err_set(err, -EISDIR, "%s: is the name of a folder", file->path);
	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return err_set(err, -EIO, "%s: no random name: %s", file->path, strerror(errno));
	/* A name has room for 255 bytes. */
	if (asprintf(&file->temporary, "%.*s.%.200s.%016llx.part", (int)(base - file->path), file->path, base,
	             random) < 0) {
		file->temporary = NULL;
		return err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static void staged_done(struct staged *file)
{
	if (file->replaced_fd >= 0)
		close(file->replaced_fd);
	free(file->temporary);
	free(file->path);
	*file = (struct staged){.replaced_fd = -1};
}

int staged_begin(const char *path, bool overwrite, struct staged *ret, struct err *err)
{
	struct staged file = {.replaced_fd = -1};
	int r;

	*ret = file;
	r = target_check(path, overwrite, &file, err);
	if (r == 0)
		r = temporary_name(&file, err);
	if (r) {
		staged_done(&file);
		return r;
	}
	*ret = file;
	return 0;
}

static int file_sync(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static int folder_sync(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];
	int length = slash ? (int)(slash - path) + (slash == path) : 1;

	if (snprintf(folder, sizeof(folder), "%.*s", length, slash ? path : ".") >= (int)sizeof(folder))
		return -ENAMETOOLONG;
	return file_sync(folder, O_RDONLY | O_DIRECTORY);
}

static int name_give(const struct staged *file)
{
	if (file->replaced_fd >= 0)
		return rename(file->temporary, file->path) < 0 ? -errno : 0;
	if (renameat2(AT_FDCWD, file->temporary, AT_FDCWD, file->path, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	/* A file system that cannot rename without replacing can still not link over a name. */
	if (link(file->temporary, file->path) < 0)
		return -errno;
	unlink(file->temporary);
	return 0;
}

int staged_commit(struct staged *file, struct err *err)
{
	int r = file_sync(file->temporary, O_RDONLY);

	if (r == 0)
		r = name_give(file);
	if (r == 0) {
		r = folder_sync(file->path);
		if (r < 0)
			err_set(err, r, "%s: complete, but its folder could not be synced: %s", file->path, strerror(-r));
		staged_done(file);
		return r;
	}
	err_set(err, r, "%s: cannot be put in place: %s", file->path, strerror(-r));
	staged_abort(file);
	return r;
}

void staged_abort(struct staged *file)
{
	if (file->temporary)
		unlink(file->temporary);
	staged_done(file);
}
