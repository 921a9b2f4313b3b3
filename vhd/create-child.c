/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What ties a new differencing disk to its parent: the locators of linkage.h, each with a space of whole sectors given
 * in bytes, and large enough for most paths that it may get later.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "vhd/chain.h"
#include "vhd/create.h"
#include "vhd/folders.h"
#include "vhd/linkage.h"
#include "vhd/parent-search.h"

struct parent {
	char *real; /* owned: path, symlinks resolved */
	struct chain chain; /* open, hence locked, while the child is made */
	uint64_t size;
	uint32_t block_size; /* 0: it has none */
	uint8_t uuid[16];    /* null: a raw disk */
	uint32_t time_stamp;
};

static void parent_done(struct parent *parent)
{
	chain_done(&parent->chain);
	free(parent->real);
}

static int parent_open_raw(const char *path, struct parent *parent, struct err *err)
{
	struct layer *layer;
	struct store *store;
	int r;

	r = store_file_open(path, 0, &store, err);
	if (r)
		return r;
	r = layer_open_raw_take(store, path, &layer, err);
	if (r)
		return r;
	parent->chain.layers = malloc(sizeof(*parent->chain.layers));
	if (!parent->chain.layers) {
		layer_free(layer);
		return err_set(err, -ENOMEM, "%s: no memory", path);
	}
	parent->chain.layers[0] = layer;
	parent->chain.count = 1;
	if (layer->size == 0 || layer->size % VHD_SECTOR)
		return err_set(err, -EINVAL, "%s: a raw parent's size must be a multiple of 512, not %" PRIu64 " bytes", path,
		               layer->size);
	return 0;
}

static int parent_open(const struct vhd_create_options *options, struct parent *ret, struct err *err)
{
	struct vhd_open_options open_options = {
		.allow_dirs = options->allow_dirs,
		.warn = options->warn,
		.user = options->user,
	};
	struct parent parent = {.real = realpath(options->parent, NULL)};
	const struct layer *layer;
	struct stat st;
	int r;

	if (!parent.real && errno == ENOENT)
		return err_set(err, VHD_E_PARENT_MISSING, "%s: the parent is not there", options->parent);
	if (!parent.real)
		return err_set(err, -errno, "%s: %s", options->parent, strerror(errno));
	r = options->parent_raw ? parent_open_raw(options->parent, &parent, err)
	                        : chain_open(options->parent, &open_options, NULL, &parent.chain, err);
	if (r == 0 && parent.chain.count >= VHD_MAX_LAYERS)
		r = err_set(err, VHD_E_CHAIN, "%s: a chain of %u images already; a child would make it deeper than %u",
		            options->parent, parent.chain.count, VHD_MAX_LAYERS);
	if (r == 0) {
		layer = parent.chain.layers[0];
		parent.size = layer->size;
		parent.block_size = layer->block_size;
		if (!options->parent_raw)
			memcpy(parent.uuid, layer->footer.uuid, sizeof(parent.uuid));
		if (fstat(layer->store->file.fd, &st) == 0)
			parent.time_stamp = time_stamp_from_unix(st.st_mtime);
		else
			r = err_set(err, -errno, "%s: %s", options->parent, strerror(errno));
	}
	if (r) {
		parent_done(&parent);
		return r;
	}
	*ret = parent;
	return 0;
}

/* Overwriting must not hit a file that the new image is to stand on. */
static int target_check(const struct new_file *file, const struct parent *parent, struct err *err)
{
	struct stat target, member;

	if (stat(file->target, &target) < 0)
		return 0;
	for (unsigned i = 0; i < parent->chain.count; i++) {
		const struct layer *layer = parent->chain.layers[i];

		if (fstat(layer->store->file.fd, &member) == 0 && member.st_dev == target.st_dev &&
		    member.st_ino == target.st_ino)
			return err_set(err, -EINVAL, "%s: it is %s of the image that would replace it", file->target,
			               i == 0 ? "the parent" : "among the parents");
	}
	return 0;
}

int image_plan_link(struct image_plan *plan, const char *target, const char *parent, const uint8_t uuid[16],
                    uint32_t time_stamp, struct err *err)
{
	struct header *header = &plan->header;
	struct linkage linkage;
	int r = linkage_make(target, parent, false, &linkage, err);

	if (r)
		return r;
	for (unsigned i = 0; i < linkage.count; i++) {
		struct locator *locator = &header->locators[i];

		memcpy(locator->code, linkage.locators[i].code, 4);
		locator->length = linkage.locators[i].length;
		locator->space = (uint32_t)round_up(locator->length, VHD_SECTOR);
		if (locator->space < LINKAGE_SPACE)
			locator->space = LINKAGE_SPACE;
		locator->offset = plan->end;
		plan->end += locator->space;
		plan->locator_data[i] = linkage.locators[i].data;
		linkage.locators[i].data = NULL;
	}
	memcpy(header->raw.parent_name, linkage.name, sizeof(linkage.name));
	linkage_done(&linkage);
	memcpy(header->parent_uuid, uuid, sizeof(header->parent_uuid));
	header->parent_time_stamp = time_stamp;
	return 0;
}

/* Such a child is right, but opens only for who allows it: better known now than then. */
static int outside_warn(const char *path, const struct new_file *file, const struct parent *parent,
                        const struct vhd_create_options *options, struct err *err)
{
	struct folders folders;
	struct err sentence;
	char *folder;
	int r;

	if (!options->warn)
		return 0;
	r = folders_init(&folders, file->folder, NULL, NULL, err);
	if (r)
		return r;
	folder = path_folder(parent->real);
	if (folder && !folders_hold(&folders, parent->real)) {
		err_set(&sentence, 0, "%s: its parent lies outside its folder, so that opening it takes --allow-dir %s", path,
		        folder);
		options->warn(options->user, sentence.text);
	}
	free(folder);
	folders_done(&folders);
	return 0;
}

int image_plan_child(const char *path, struct new_file *file, const struct vhd_create_options *options,
                     struct image_plan *ret, struct err *err)
{
	uint32_t block_size = options->block_size_bytes;
	struct parent parent;
	int r;

	/* If what is to be replaced is among the parents, opening them must not fail on our own lock. */
	new_file_unlock(file);
	r = parent_open(options, &parent, err);
	if (r)
		return r;
	if (block_size == 0)
		block_size = parent.block_size >= CREATE_MIN_BLOCK_SIZE ? parent.block_size : VHD_DEFAULT_BLOCK_SIZE;
	r = target_check(file, &parent, err);
	if (r == 0 && options->overwrite)
		r = new_file_lock(file, err);
	if (r == 0)
		r = image_plan_init(path, options, VHD_DIFFERENCING, options->size_bytes ? options->size_bytes : parent.size,
		                    block_size, ret, err);
	if (r == 0)
		r = image_plan_link(ret, file->target, parent.real, parent.uuid, parent.time_stamp, err);
	if (r == 0)
		r = outside_warn(path, file, &parent, options, err);
	parent_done(&parent);
	return r;
}
