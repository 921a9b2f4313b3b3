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

#include "vhd/directory.h"
#include "vhd/lock.h"

#define NAME_TRIES 100

/* `path` with the symlinks of its folder, and its own if it is there, resolved. */
static int target_resolve(const char *path, char **ret_target, char **ret_folder)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char *whole, *folder, *target, *end;
	struct stat st;

	if (!*path)
		return -ENOENT;
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

/* What is there must be a file of its own that nobody uses; it stays locked. */
static int existing_check(struct new_file *file, struct err *err)
{
	const char *path = file->path;
	struct stat st;

	if (lstat(file->target, &st) < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return err_set(err, -EINVAL, "%s: is a folder; name a file in it", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: only a regular file can be overwritten; choose another name", path);
	if (!file->overwrite)
		return err_set(err, -EEXIST, "%s: the file exists already and is not overwritten", path);
	return new_file_lock(file, err);
}

void new_file_unlock(struct new_file *file)
{
	if (file->replaced_fd >= 0)
		close(file->replaced_fd);
	file->replaced_fd = -1;
}

int new_file_lock(struct new_file *file, struct err *err)
{
	const char *path = file->path;

	file->replaced_fd = open(file->target, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->replaced_fd < 0 && errno == ENOENT)
		return 0;
	if (file->replaced_fd < 0)
		return err_set(err, -errno, "%s: whether it is in use cannot be seen: %s; remove it first", path,
		               strerror(errno));
	return lock_take(file->replaced_fd, path, true, err);
}

#define TARGET_LENGTH 200 /* how much of the name the temporary one has */
#define RANDOM_LENGTH 16

bool new_file_is_temporary(const char *name, const char *target)
{
	size_t length = strnlen(target, TARGET_LENGTH);

	if (name[0] != '.' || strncmp(name + 1, target, length) || name[1 + length] != '.')
		return false;
	name += 1 + length + 1;
	return strlen(name) == RANDOM_LENGTH && strspn(name, "0123456789abcdef") == RANDOM_LENGTH;
}

static int temporary_name(struct new_file *file)
{
	const char *name = strrchr(file->target, '/') + 1;
	uint64_t random;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	free(file->temporary);
	if (asprintf(&file->temporary, "%s/.%.*s.%0*" PRIx64, file->folder, TARGET_LENGTH, name, RANDOM_LENGTH, random) < 0) {
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

static int begin(const char *path, bool overwrite, bool beside, struct new_file *ret, struct err *err)
{
	struct new_file file = {.fd = -1, .replaced_fd = -1, .overwrite = overwrite, .path = strdup(path)};
	struct stat st;
	int r;

	r = file.path ? target_resolve(path, &file.target, &file.folder) : -ENOMEM;
	if (r == -EISDIR)
		err_set(err, r, "%s: is a folder; name a file in it", path);
	else if (r && lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
		err_set(err, r, "%s: is a symbolic link that leads nowhere (%s); remove it first", path, strerror(-r));
	else if (r)
		err_set(err, r, "%s: cannot be created: its folder: %s", path, strerror(-r));
	if (r)
		goto fail;
	r = beside ? 0 : existing_check(&file, err);
	if (r)
		goto fail;
	r = temporary_open(&file);
	if (r) {
		err_set(err, r, "%s: cannot be created in %s: %s", path, file.folder, strerror(-r));
		goto fail;
	}
	*ret = file;
	return 0;
fail:
	new_file_done(&file);
	return r;
}

int new_file_open(const char *path, bool overwrite, struct new_file *ret, struct err *err)
{
	return begin(path, overwrite, false, ret, err);
}

int new_file_open_beside(const char *path, struct new_file *ret, struct err *err)
{
	return begin(path, true, true, ret, err);
}

int new_file_name(const struct new_file *file, char ret[NEW_FILE_NAME_MAX])
{
	int length = file->temporary ? snprintf(ret, NEW_FILE_NAME_MAX, "%s", file->temporary)
	                             : snprintf(ret, NEW_FILE_NAME_MAX, "/proc/self/fd/%d", file->fd);

	return length < NEW_FILE_NAME_MAX ? 0 : -ENAMETOOLONG;
}

/* A nameless file gets its temporary name. */
static int temporary_give(struct new_file *file)
{
	for (unsigned i = 0; !file->temporary; i++) {
		int r = temporary_name(file);

		if (r)
			return r;
		r = directory_link_fd(file->fd, file->temporary);
		if (r) {
			free(file->temporary);
			file->temporary = NULL;
			if (r != -EEXIST || i == NAME_TRIES)
				return r;
		}
	}
	return 0;
}

static int name_give(struct new_file *file)
{
	int r;

	if (!file->temporary && !file->overwrite)
		return directory_link_fd(file->fd, file->target);
	r = temporary_give(file);
	if (r == 0)
		r = directory_rename(file->temporary, file->target, file->overwrite);
	if (r)
		return r;
	free(file->temporary);
	file->temporary = NULL;
	return 0;
}

static int content_sync(const struct new_file *file, struct err *err)
{
	if (fsync(file->fd) < 0)
		return err_set(err, -errno, "%s: writing it to disk failed: %s", file->path, strerror(errno));
	return 0;
}

static int names_sync(const struct new_file *file, struct err *err)
{
	int r = directory_sync(file->folder);

	return r ? err_set(err, r, "%s: syncing its folder failed: %s", file->path, strerror(-r)) : 0;
}

int new_file_place(struct new_file *file, struct err *err)
{
	int r = content_sync(file, err);

	if (r)
		return r;
	r = temporary_give(file);
	if (r)
		return err_set(err, r, "%s: no file can be made beside it: %s", file->path, strerror(-r));
	return names_sync(file, err);
}

int new_file_commit(struct new_file *file, struct err *err)
{
	int r = content_sync(file, err);

	if (r)
		return r;
	r = name_give(file);
	if (r == -EEXIST)
		return err_set(err, r, "%s: the file exists already and is not overwritten", file->path);
	if (r)
		return err_set(err, r, "%s: cannot be created: %s", file->path, strerror(-r));
	return names_sync(file, err);
}

void new_file_done(struct new_file *file)
{
	if (file->temporary)
		(void)directory_unlink(file->temporary);
	if (file->fd >= 0)
		close(file->fd);
	new_file_unlock(file);
	free(file->temporary);
	free(file->path);
	free(file->target);
	free(file->folder);
}
