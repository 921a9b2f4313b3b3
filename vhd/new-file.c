/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/new-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/lock.h"

#define NAME_TRIES 100

/* `path` with the symlinks of its folder, and its own if it is there, resolved. */
static int target_resolve(const char *path, char **ret_target, char **ret_folder)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char *whole, *folder, *target, *end;
	struct stat st;

	if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
		target = realpath(path, NULL);
		if (!target)
			return -errno;
		end = strrchr(target, '/');
		folder = strndup(target, end == target ? 1 : (size_t)(end - target));
		if (!folder) {
			free(target);
			return -ENOMEM;
		}
	} else {
		if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
			return -EISDIR;
		whole = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
		folder = whole ? realpath(whole, NULL) : NULL;
		free(whole);
		if (!folder)
			return -errno;
		if (asprintf(&target, "%s/%s", strcmp(folder, "/") ? folder : "", name) < 0) {
			free(folder);
			return -ENOMEM;
		}
	}
	*ret_target = target;
	*ret_folder = folder;
	return 0;
}

static int existing_check(const struct new_file *file, const char *path, struct err *err)
{
	struct stat st;
	int fd, r;

	if (lstat(file->target, &st) < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!file->overwrite)
		return err_set(err, -EEXIST, "%s: the file exists already and is not overwritten", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: only a regular file can be overwritten", path);
	fd = open(file->target, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return errno == EACCES || errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	r = lock_take(fd, path, true, err);
	close(fd);
	return r;
}

static int temporary_name(struct new_file *file)
{
	const char *name = strrchr(file->target, '/') + 1;
	uint64_t random;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	free(file->temporary);
	if (asprintf(&file->temporary, "%s/.%.200s.%016" PRIx64, file->folder, name, random) < 0) {
		file->temporary = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int temporary_open(struct new_file *file)
{
	file->fd = open(file->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
	if (file->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
		return -errno;
	for (unsigned i = 0; i < NAME_TRIES; i++) {
		int r = temporary_name(file);

		if (r)
			return r;
		file->fd = open(file->temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0666);
		if (file->fd >= 0)
			return 0;
		r = -errno;
		free(file->temporary);
		file->temporary = NULL;
		if (r != -EEXIST)
			return r;
	}
	return -EEXIST;
}

int new_file_open(const char *path, bool overwrite, struct new_file *ret, struct err *err)
{
	struct new_file file = {.fd = -1, .overwrite = overwrite};
	int r;

	r = target_resolve(path, &file.target, &file.folder);
	if (r)
		return err_set(err, r, "%s: cannot be created: %s", path, strerror(-r));
	r = existing_check(&file, path, err);
	if (r == 0) {
		r = temporary_open(&file);
		if (r)
			err_set(err, r, "%s: cannot be created in %s: %s", path, file.folder, strerror(-r));
	}
	if (r) {
		new_file_done(&file);
		return r;
	}
	*ret = file;
	return 0;
}

static int link_nameless(int fd, const char *name)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, proc, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int name_give(struct new_file *file)
{
	if (!file->temporary && !file->overwrite)
		return link_nameless(file->fd, file->target);
	for (unsigned i = 0; !file->temporary; i++) {
		int r = temporary_name(file);

		if (r)
			return r;
		r = link_nameless(file->fd, file->temporary);
		if (r) {
			free(file->temporary);
			file->temporary = NULL;
			if (r != -EEXIST || i == NAME_TRIES)
				return r;
		}
	}
	if (renameat2(AT_FDCWD, file->temporary, AT_FDCWD, file->target, file->overwrite ? 0 : RENAME_NOREPLACE) < 0) {
		/* File systems that do not know the flag: a hard link does not replace either. */
		if (file->overwrite || errno != EINVAL)
			return -errno;
		if (link(file->temporary, file->target) < 0)
			return -errno;
		unlink(file->temporary);
	}
	free(file->temporary);
	file->temporary = NULL;
	return 0;
}

static int folder_sync(const char *folder)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0 && errno != EINVAL)
		r = -errno;
	close(fd);
	return r;
}

int new_file_commit(struct new_file *file, struct err *err)
{
	int r;

	if (fsync(file->fd) < 0)
		return err_set(err, -errno, "%s: writing it to disk failed: %s", file->target, strerror(errno));
	r = name_give(file);
	if (r == -EEXIST)
		return err_set(err, r, "%s: the file exists already and is not overwritten", file->target);
	if (r)
		return err_set(err, r, "%s: cannot be created: %s", file->target, strerror(-r));
	r = folder_sync(file->folder);
	if (r)
		return err_set(err, r, "%s: syncing its folder failed: %s", file->target, strerror(-r));
	return 0;
}

void new_file_done(struct new_file *file)
{
	if (file->temporary)
		unlink(file->temporary);
	if (file->fd >= 0)
		close(file->fd);
	free(file->temporary);
	free(file->target);
	free(file->folder);
}
