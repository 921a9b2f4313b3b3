/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/switch-recover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/directory.h"
#include "vhd/lock.h"
#include "vhd/new-file.h"
#include "vhd/parent-search.h"

struct recovery {
	const struct layer *leaf;
	const struct vhd_open_options *options;
	char *real;   /* of the leaf, symlinks resolved */
	char *folder;
	const char *name;
	struct stat self;
};

static void warn(const struct recovery *r, const char *path, int rc)
{
	struct err sentence;

	if (!r->options->warn)
		return;
	err_set(&sentence, rc, "%s: is left of a snapshot of %s that was cut off, and cannot be removed: %s", path, r->real,
	        strerror(-rc));
	r->options->warn(r->options->user, sentence.text);
}

/* Opened and locked, if it is an empty child of the leaf that has no other name and nobody uses. */
static struct layer *child_open(const struct recovery *r, const char *path)
{
	struct layer *child = NULL;
	struct store *store;
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1)
		return NULL;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return NULL;
	if (lock_take(fd, path, true, NULL)) {
		close(fd);
		return NULL;
	}
	if (store_file_open_take(fd, path, 0, &store, NULL) || layer_open_take(store, path, NULL, &child, NULL))
		return NULL;
	if (child->footer.type == VHD_DIFFERENCING && child->allocated == 0 &&
	    !memcmp(child->header.parent_uuid, r->leaf->footer.uuid, sizeof(child->header.parent_uuid)))
		return child;
	layer_free(child);
	return NULL;
}

/* The frozen name: where the child says that its parent is, beside the leaf, and the leaf's own file is there. */
static int frozen_remove(const struct recovery *r, const struct layer *child)
{
	struct parent_candidates candidates;
	int rc = parent_candidates_find(child, r->folder, &candidates, NULL, NULL);

	if (rc)
		return rc;
	for (unsigned i = 0; rc == 0 && i < candidates.count; i++) {
		const char *path = candidates.paths[i];
		char *folder = path_folder(path), *real = folder ? realpath(folder, NULL) : NULL;
		struct stat st;

		if (real && !strcmp(real, r->folder) && strcmp(strrchr(path, '/') + 1, r->name) && lstat(path, &st) == 0 &&
		    st.st_dev == r->self.st_dev && st.st_ino == r->self.st_ino) {
			rc = directory_unlink(path);
			if (rc == 0)
				rc = directory_sync(r->folder);
			if (rc)
				warn(r, path, rc);
		}
		free(real);
		free(folder);
	}
	parent_candidates_done(&candidates);
	return rc;
}

/* The child goes last: it is what tells that the other name is left over too. */
static void leftover_remove(const struct recovery *r, const char *name)
{
	struct layer *child;
	char *path;
	int rc;

	if (asprintf(&path, "%s/%s", strcmp(r->folder, "/") ? r->folder : "", name) < 0)
		return;
	child = child_open(r, path);
	if (child && frozen_remove(r, child) == 0) {
		rc = directory_unlink(path);
		if (rc == 0)
			rc = directory_sync(r->folder);
		if (rc)
			warn(r, path, rc);
	}
	layer_free(child);
	free(path);
}

static bool recovery_init(struct recovery *r, const char *path)
{
	struct stat st;

	if (fstat(r->leaf->store->file.fd, &r->self) < 0 || r->self.st_nlink == 0)
		return false;
	r->real = realpath(path, NULL);
	r->folder = r->real ? path_folder(r->real) : NULL;
	if (!r->folder || stat(r->real, &st) < 0 || st.st_dev != r->self.st_dev || st.st_ino != r->self.st_ino)
		return false;
	r->name = strrchr(r->real, '/') + 1;
	return true;
}

void switch_recover(const struct layer *leaf, const char *path, const struct vhd_open_options *options)
{
	struct recovery r = {.leaf = leaf, .options = options};
	struct dirent *entry;
	DIR *dir = NULL;

	if (recovery_init(&r, path))
		dir = opendir(r.folder);
	while (dir && (entry = readdir(dir)))
		if (new_file_is_temporary(entry->d_name, r.name))
			leftover_remove(&r, entry->d_name);
	if (dir)
		closedir(dir);
	free(r.folder);
	free(r.real);
}
