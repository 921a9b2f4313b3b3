/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/upkept.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/upkeep.h"

int upkept_open_take(struct store *const *stores, unsigned count, const char *folder, struct vhd **ret, struct err *err)
{
	struct chain chain = {.layers = calloc(count, sizeof(*chain.layers))};
	struct vhd *vhd = calloc(1, sizeof(*vhd));
	int rc = 0;

	if (!chain.layers || !vhd)
		abort();
	for (unsigned i = 0; i < count; i++) {
		char path[512];

		snprintf(path, sizeof(path), "%s/layer-%u.vhd", folder, i);
		if (rc) {
			store_close(stores[i]);
			continue;
		}
		rc = layer_open_take(stores[i], path, NULL, &chain.layers[i], err);
		if (rc == 0)
			chain.count++;
	}
	if (rc)
		chain_done(&chain);
	else
		rc = image_open_take(&chain, !stores[0]->read_only, false, &vhd->image, err);
	if (rc)
		free(vhd);
	else
		*ret = vhd;
	return rc;
}

struct defects {
	const char *const *allow;
	struct err *err;
	int rc;
};

static void note(void *user, const struct vhd_defect *defect)
{
	struct defects *d = user;

	if (defect->severity == VHD_NOTE || d->rc)
		return;
	for (unsigned i = 0; d->allow && d->allow[i]; i++)
		if (!strcmp(defect->code, d->allow[i]))
			return;
	d->rc = err_set(d->err, VHD_E_CORRUPT, "%s: %s", defect->code, defect->sentence);
}

static int check_surplus(const struct layer *layer, struct err *err)
{
	uint64_t end = layer->file_size;

	for (uint32_t b = layer->block_count; b < layer->header.max_table_entries; b++) {
		be32 entry;
		struct byte_range r;
		int rc = layer->store->ops->read(layer->store, &entry, sizeof(entry), layer->header.table_offset + (uint64_t)b * 4);

		if (rc)
			return err_set(err, rc, "entry %" PRIu32 " cannot be read", b);
		r = layer_block_range(layer, be32_get(entry));
		if (be32_get(entry) != VHD_BAT_UNALLOCATED && (r.offset < layer->metadata_end || r.offset + r.length > end))
			return err_set(err, VHD_E_CORRUPT, "entry %" PRIu32 ", beyond the size, is %08" PRIx32, b, be32_get(entry));
	}
	return 0;
}

int upkept_check(struct memory_file *file, const char *const *allow, struct err *err)
{
	struct defects defects = {.allow = allow, .err = err};
	const struct layer_sink sink = {.defect = note, .user = &defects, .strict = true};
	struct layer *layer;
	int rc = layer_open_take(store_memory_open(file, 0), "/fake/leaf.vhd", &sink, &layer, err);

	if (rc)
		return rc;
	rc = defects.rc;
	if (rc == 0 && layer->bat)
		rc = check_surplus(layer, err);
	layer_free(layer);
	return rc;
}
