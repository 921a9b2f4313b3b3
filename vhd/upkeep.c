/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/upkeep.h"

#include <errno.h>

int upkeep_begin(struct image *image, struct err *err)
{
	const char *path;
	int rc = 0;

	pthread_mutex_lock(&image->lock);
	path = image_leaf(image)->path;
	if (!image->writable)
		rc = err_set(err, -EROFS, "%s: it is open for reading only", path);
	else if (atomic_load(&image->broken))
		rc = err_set(err, -EROFS, "%s: writing to it has failed before; close it and check it first", path);
	else if (image->upkeep)
		rc = err_set(err, -EBUSY, "%s: it is being merged, resized, compacted or switched already; wait for that to end",
		             path);
	else
		image->upkeep = true;
	pthread_mutex_unlock(&image->lock);
	return rc;
}

void upkeep_end(struct image *image)
{
	pthread_mutex_lock(&image->lock);
	image->upkeep = false;
	pthread_mutex_unlock(&image->lock);
}
