/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/folders.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/parent-search.h"

/* Takes `path` over. */
static int folder_add(struct folders *folders, char *path, struct err *err)
{
	char **paths = path ? reallocarray(folders->paths, folders->count + 1, sizeof(*paths)) : NULL;

	if (!paths) {
		free(path);
		return err_set(err, -ENOMEM, "no memory for the allowed folders");
	}
	folders->paths = paths;
	paths[folders->count++] = path;
	return 0;
}

int folders_init(struct folders *folders, const char *leaf_folder, const char *parent, const char *const *more,
                 struct err *err)
{
	int r;

	*folders = (struct folders){0};
	r = folder_add(folders, strdup(leaf_folder), err);
	if (r == 0 && parent) {
		char *real = realpath(parent, NULL);

		/* If it is not there, opening it says so. */
		if (real) {
			r = folder_add(folders, path_folder(real), err);
			free(real);
		}
	}
	for (size_t i = 0; r == 0 && more && more[i]; i++) {
		char *real = realpath(more[i], NULL);

		r = real ? folder_add(folders, real, err)
		         : err_set(err, -errno, "%s: an allowed folder (--allow-dir) that cannot be had: %s", more[i],
		                   strerror(errno));
	}
	if (r)
		folders_done(folders);
	return r;
}

void folders_done(struct folders *folders)
{
	for (size_t i = 0; i < folders->count; i++)
		free(folders->paths[i]);
	free(folders->paths);
	*folders = (struct folders){0};
}

bool folders_hold(const struct folders *folders, const char *path)
{
	for (size_t i = 0; i < folders->count; i++) {
		const char *folder = folders->paths[i];
		size_t length = strlen(folder);

		if (folder[length - 1] == '/')
			length--;
		if (!strncmp(path, folder, length) && path[length] == '/')
			return true;
	}
	return false;
}
