/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/upkeep-children.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vhd/directory.h"
#include "vhd/lock.h"
#include "vhd/parent-search.h"
#include "vhd/relink.h"

static int file_open(const char *path, bool write, struct store **ret, struct err *err)
{
	int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), r;

	if (fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	r = write ? lock_take(fd, path, true, err) : 0;
	if (r) {
		close(fd);
		return r;
	}
	return store_file_open_take(fd, path, write ? STORE_WRITE : 0, ret, err);
}

int upkeep_children_find(const struct vhd_info *info, struct children *ret, struct err *err)
{
	struct layer layer = {.raw = info->raw, .path = (char *)info->path};
	int r = file_open(info->path, false, &layer.store, err);

	if (r)
		return r;
	memcpy(layer.footer.uuid, info->uuid, sizeof(layer.footer.uuid));
	r = children_find(&layer, info->path, ret, err);
	store_close(layer.store);
	return r;
}

static uint32_t time_stamp_of(const struct vhd_info *info)
{
	int64_t seconds = (int64_t)info->created - VHD_EPOCH;

	return info->raw || seconds < 0 ? 0 : seconds > UINT32_MAX ? UINT32_MAX : (uint32_t)seconds;
}

int upkeep_child_relink(const char *child, const struct vhd_info *parent, struct err *err)
{
	static const uint8_t no_uuid[16];
	char *real = realpath(parent->path, NULL);
	struct relink_tail tail;
	struct layer *layer;
	struct store *store;
	int r;

	if (!real)
		return err_set(err, -errno, "%s: %s", parent->path, strerror(errno));
	r = file_open(child, true, &store, err);
	if (!r)
		r = layer_open_take(store, child, NULL, &layer, err);
	if (!r) {
		tail = relink_tail_of(layer);
		r = layer_set_parent(layer, &tail, real, parent->raw ? no_uuid : parent->uuid, time_stamp_of(parent), err);
		layer_free(layer);
	}
	free(real);
	return r;
}

/* The first one last: who runs the same merge again begins with it. */
int upkeep_files_remove(char *const *paths, unsigned count, struct err *err)
{
	while (count-- > 0) {
		char *folder = path_folder(paths[count]);
		int r = directory_unlink(paths[count]);

		if (!r)
			r = folder ? directory_sync(folder) : -ENOMEM;
		free(folder);
		if (r && r != -ENOENT)
			return err_set(err, r, "%s: it is merged but cannot be removed: %s", paths[count], strerror(-r));
	}
	return 0;
}
