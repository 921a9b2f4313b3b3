/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/set-uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vhd/layer.h"
#include "vhd/lock.h"
#include "vhd/relink.h"

static int layer_open_locked(const char *path, struct layer **ret, struct err *err)
{
	struct store *store;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), rc;

	if (fd < 0)
		return err_set(err, -errno, "%s: opening it for writing failed: %s", path, strerror(errno));
	rc = lock_take(fd, path, true, err);
	if (rc) {
		close(fd);
		return rc;
	}
	rc = store_file_open_take(fd, path, STORE_WRITE, &store, err);
	return rc ? rc : layer_open_take(store, path, NULL, ret, err);
}

int image_set_uuid(const char *path, const uint8_t expected[16], const uint8_t uuid[16], struct err *err)
{
	char wanted[37], found[37];
	struct layer *layer;
	int rc = layer_open_locked(path, &layer, err);

	if (rc)
		return rc;
	if (memcmp(layer->footer.uuid, expected, 16)) {
		vhd_uuid_text(expected, wanted);
		vhd_uuid_text(layer->footer.uuid, found);
		rc = err_set(err, VHD_E_PARENT_MISMATCH, "%s: its Unique Id is %s, not %s", path, found, wanted);
	} else {
		struct relink_tail tail = relink_tail_of(layer);

		rc = layer_set_uuid(layer, &tail, uuid, err);
	}
	layer_free(layer);
	return rc;
}
