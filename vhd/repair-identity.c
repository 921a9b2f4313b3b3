/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk whose Unique Id was lost: differencing disks that stand on it recorded it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/parent-search.h"
#include "vhd/repair.h"

#define FILES_MAX 10000u /* of a folder that are looked into */

static void defect_ignore(void *user, const struct vhd_defect *defect)
{
	(void)user, (void)defect;
}

static bool names_it(const struct layer *child, const char *folder, const struct stat *file)
{
	struct parent_candidates candidates;
	bool found = false;

	if (parent_candidates_find(child, folder, &candidates, NULL, NULL))
		return false;
	for (unsigned i = 0; i < candidates.count && !found; i++) {
		struct stat st;

		found = stat(candidates.paths[i], &st) == 0 && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
	}
	parent_candidates_done(&candidates);
	return found;
}

/* Whether the file is a differencing disk that stands on `file`; what it recorded. */
static bool child_look(int dir, const char *folder, const char *name, const struct stat *file, struct identity *ret)
{
	const struct layer_sink sink = {.defect = defect_ignore};
	struct store *store;
	struct layer *layer;
	struct stat st;
	bool found;
	int fd;

	if (fstatat(dir, name, &st, 0) < 0 || !S_ISREG(st.st_mode) || (st.st_dev == file->st_dev && st.st_ino == file->st_ino))
		return false;
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || store_file_open_take(fd, name, 0, &store, NULL) || layer_open_take(store, name, &sink, &layer, NULL))
		return false;
	found = layer->footer.type == VHD_DIFFERENCING && names_it(layer, folder, file);
	if (found) {
		ret->known = true;
		memcpy(ret->uuid, layer->header.parent_uuid, sizeof(ret->uuid));
		snprintf(ret->child, sizeof(ret->child), "%s", name);
	}
	layer_free(layer);
	return found;
}

int identity_find(const struct repair *repair, struct identity *ret)
{
	char *real = realpath(repair->path, NULL), *folder = real ? path_folder(real) : NULL;
	DIR *dir = folder ? opendir(folder) : NULL;
	struct dirent *entry;
	struct stat file;
	unsigned looked = 0;

	*ret = (struct identity){.known = false};
	if (dir && fstat(repair->store->file.fd, &file) == 0) {
		while ((entry = readdir(dir)) && looked++ < FILES_MAX) {
			struct identity other = {.known = false};

			if (!child_look(dirfd(dir), folder, entry->d_name, &file, &other))
				continue;
			if (ret->known && memcmp(ret->uuid, other.uuid, sizeof(other.uuid))) {
				*ret = (struct identity){.known = false}; /* they disagree: none is evidence */
				break;
			}
			*ret = other;
		}
	}
	if (dir)
		closedir(dir);
	free(folder);
	free(real);
	return 0;
}
