/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>

#include <string.h>
#include <sys/stat.h>

#include "vhd/chain.h"
#include "vhd/children.h"
#include "vhd/switch-recover.h"
#include "vhd/upkeep.h"

/*
 * Where O_DIRECT wants more than sectors, the payload must lie so; what does not would need every write to be a
 * serialised read-modify-write, which the page cache does already.
 */
static bool direct_fits(const struct chain *chain, bool salvage)
{
	for (unsigned i = 0; i < chain->count; i++) {
		const struct layer *layer = chain->layers[i];
		uint32_t align = layer->store->offset_align;
		struct vhd_info info;

		if (layer->size % align || (salvage && layer->file_size % align)) /* what is salvaged may end where the file does */
			return false;
		if (align <= VHD_SECTOR || layer->raw || !layer->bat)
			continue;
		layer_info(layer, &info);
		if (align > 4096 || layer->block_size % align || !info.payload_aligned)
			return false;
	}
	return true;
}

static void warn_of_defect(void *user, const struct vhd_defect *defect)
{
	const struct vhd_open_options *options = user;
	struct err sentence;

	if (!options->warn || defect->severity == VHD_NOTE)
		return;
	err_set(&sentence, 0, "%s: %s", defect->path, defect->sentence);
	options->warn(options->user, sentence.text);
}

static int open_chain(const char *path, const struct vhd_open_options *options, struct chain *ret, struct err *err)
{
	const struct layer_sink salvage = {.defect = warn_of_defect, .user = (void *)options};
	const struct layer_sink *sink = options->flags & VHD_OPEN_SALVAGE ? &salvage : NULL;
	struct vhd_open_options buffered = *options;
	int rc = chain_open(path, options, sink, ret, err);

	if (rc || !(options->flags & VHD_OPEN_DIRECT) || direct_fits(ret, sink))
		return rc;
	chain_done(ret);
	if (options->warn)
		options->warn(options->user,
		              "its data is not aligned to what direct I/O needs on this device: the page cache is used");
	buffered.flags &= ~VHD_OPEN_DIRECT;
	return chain_open(path, &buffered, sink, ret, err);
}

/* A folder that cannot be read, by who may write the file, is no reason not to. */
static int refuse_children(const struct layer *leaf, const char *path, const struct vhd_open_options *options,
                           struct err *err)
{
	struct children children;
	struct stat st;
	struct err why;
	int rc;

	if (fstat(leaf->store->file.fd, &st) < 0 || st.st_nlink == 0) /* what has no name has no children */
		return 0;
	rc = children_find(leaf, path, &children, &why);
	if (rc) {
		if (options->warn)
			options->warn(options->user, why.text);
		return 0;
	}
	rc = children_refuse(&children, path, err);
	children_done(&children);
	return rc;
}

/* Between opening the chain and using it: what stands in the way of writing. */
static int ready_to_write(const struct layer *leaf, const char *path, const struct vhd_open_options *options,
                          struct err *err)
{
	switch_recover(leaf, path, options);
	return options->flags & VHD_OPEN_DESPITE_CHILDREN ? 0 : refuse_children(leaf, path, options, err);
}

int vhd_open(const char *path, const struct vhd_open_options *options, struct vhd **ret, struct err *err)
{
	static const struct vhd_open_options defaults;
	struct vhd *vhd;
	struct chain chain;
	unsigned flags;
	int rc;

	if (!options)
		options = &defaults;
	flags = options->flags;
	if ((flags & VHD_OPEN_WRITE) && (flags & (VHD_OPEN_SALVAGE | VHD_OPEN_NO_PARENTS)))
		return err_set(err, -EINVAL, "%s: to be written to, an image must be whole and have its parents", path);
	vhd = calloc(1, sizeof(*vhd));
	if (!vhd)
		return err_set(err, -ENOMEM, "%s: no memory", path);
	rc = open_chain(path, options, &chain, err);
	if (rc == 0 && (flags & VHD_OPEN_WRITE)) {
		rc = ready_to_write(chain.layers[0], path, options, err);
		if (rc)
			chain_done(&chain);
	}
	if (rc == 0)
		rc = image_open_take(&chain, flags & VHD_OPEN_WRITE, flags & VHD_OPEN_SALVAGE, &vhd->image, err);
	if (rc) {
		free(vhd);
		return rc;
	}
	*ret = vhd;
	return 0;
}

int vhd_close(struct vhd *vhd, struct err *err)
{
	int rc;

	if (!vhd)
		return 0;
	rc = image_close(vhd->image, err);
	free(vhd);
	return rc;
}

void vhd_on_resize(struct vhd *vhd, void (*resized)(void *user, uint64_t size_bytes), void *user)
{
	vhd->resized = resized;
	vhd->resized_user = user;
}

struct blk *vhd_blk(struct vhd *vhd)
{
	return &vhd->image->blk;
}

unsigned vhd_layer_count(const struct vhd *vhd)
{
	unsigned count;

	/* The stack may be on its way out, with a merge at work. */
	pthread_mutex_lock(&vhd->image->lock);
	count = image_stack(vhd->image)->count;
	pthread_mutex_unlock(&vhd->image->lock);
	return count;
}

void vhd_layer_info(const struct vhd *vhd, unsigned layer, struct vhd_info *ret)
{
	struct image *image = vhd->image;
	const struct image_layer *l;

	pthread_mutex_lock(&image->lock);
	l = image_stack(image)->layer[layer];
	layer_info(l->layer, ret);
	if (l->writer && l->layer->bat) /* the BAT changes while it is open */
		ret->allocated_blocks = l->writer->allocated;
	pthread_mutex_unlock(&image->lock);
}
