/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/set-uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "vhd/layer.h"
#include "vhd/lock.h"

static int footer_write(const struct layer *layer, const struct footer_disk *disk, size_t length, uint64_t offset,
                        struct err *err)
{
	struct store *store = layer->store;
	int rc = store->ops->write(store, disk, length, offset);

	if (rc == 0)
		rc = store->ops->sync(store, STORE_BARRIER_METADATA);
	if (rc)
		err_set(err, rc, "%s: writing its footer at offset %" PRIu64 ": %s", layer->path, offset, strerror(-rc));
	return rc;
}

/*
 * The copy first, then the footer at the end, each one sector, each synced: that at the end is the one that is read, and
 * should it be lost later, the copy says what was going to be.
 */
static int footers_write(const struct layer *layer, const uint8_t uuid[16], struct err *err)
{
	struct footer footer = layer->footer;
	struct footer_disk disk;
	size_t length = layer->footer_source == FOOTER_AT_END_511 ? sizeof(disk) - 1 : sizeof(disk);
	int rc = 0;

	memcpy(footer.uuid, uuid, 16);
	footer_encode(&footer, &disk);
	if (footer.type != VHD_FIXED)
		rc = footer_write(layer, &disk, sizeof(disk), 0, err);
	if (rc == 0 && layer->footer_source != FOOTER_FROM_COPY)
		rc = footer_write(layer, &disk, length, layer->file_size - length, err);
	return rc;
}

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
		rc = footers_write(layer, uuid, err);
	}
	layer_free(layer);
	return rc;
}
