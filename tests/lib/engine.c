/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/engine.h"

#include <stdio.h>
#include <stdlib.h>

#include "vhd/image.h"

int engine_open_take(struct store *const *stores, unsigned count, bool write, struct blk **ret, struct err *err)
{
	struct chain chain = {.layers = calloc(count, sizeof(*chain.layers))};
	struct image *image;
	int rc = 0;

	if (!chain.layers)
		abort();
	for (unsigned i = 0; i < count; i++) {
		char path[32];

		snprintf(path, sizeof(path), "/fake/layer-%u.vhd", i);
		if (rc) {
			store_close(stores[i]);
			continue;
		}
		rc = layer_open_take(stores[i], path, NULL, &chain.layers[i], err);
		if (rc == 0)
			chain.count++;
	}
	if (rc) {
		chain_done(&chain);
		return rc;
	}
	rc = image_open_take(&chain, write, false, &image, err);
	if (rc == 0)
		*ret = &image->blk;
	return rc;
}
