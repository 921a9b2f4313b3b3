/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * New images. A dynamic disk is laid out as: copy of the footer, header at 512, BAT at 4096 (padded with FF to a
 * sector), for a differencing disk its parent locators, footer. No batmap.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "common/checked.h"
#include "vhd/create.h"
#include "vhd/new-file.h"
#include "vhd/store.h"

#define HEADER_OFFSET 512u
#define TABLE_OFFSET 4096u
#define PAYLOAD_ALIGN 4096u /* the engine puts a new block's data at such an offset */
#define FILL_CHUNK (1u << 20)

static int random_uuid(uint8_t uuid[16])
{
	if (getrandom(uuid, 16, 0) != 16)
		return -EIO;
	uuid[6] = (uint8_t)(0x40 | (uuid[6] & 0x0F));
	uuid[8] = (uint8_t)(0x80 | (uuid[8] & 0x3F));
	return 0;
}

uint32_t time_stamp_from_unix(time_t when)
{
	if (when < VHD_EPOCH)
		return 0;
	return when - VHD_EPOCH > UINT32_MAX ? UINT32_MAX : (uint32_t)(when - VHD_EPOCH);
}

static int plan_sparse(const char *path, uint32_t block_size, struct image_plan *plan, struct err *err)
{
	struct header *header = &plan->header;
	uint64_t blocks = (plan->footer.current_size + block_size - 1) / block_size;
	uint64_t bitmap_bytes = round_up((block_size / VHD_SECTOR + 7) / 8, VHD_SECTOR);
	uint64_t stride = round_up(bitmap_bytes + block_size, PAYLOAD_ALIGN), table_end, last_start;

	plan->footer.data_offset = HEADER_OFFSET;
	header->table_offset = TABLE_OFFSET;
	header->block_size = block_size;
	table_end = TABLE_OFFSET + round_up(blocks * 4, VHD_SECTOR);
	plan->end = table_end;

	/* Whichever block is allocated last must still have a sector number below that of "not allocated". */
	last_start = round_up(table_end, PAYLOAD_ALIGN) + PAYLOAD_ALIGN + CREATE_LOCATORS_MAX + (blocks - 1) * stride;
	if (blocks > UINT32_MAX || last_start / VHD_SECTOR >= VHD_BAT_UNALLOCATED)
		return err_set(err, -EINVAL, "%s: %" PRIu64 " bytes in blocks of %" PRIu32 " bytes need a file of %" PRIu64
		               " GiB, but a BAT reaches only 2048 GiB: use larger blocks or a smaller disk", path,
		               plan->footer.current_size, block_size, (last_start + stride) >> 30);
	header->max_table_entries = (uint32_t)blocks;
	return 0;
}

int image_plan_init(const char *path, const struct vhd_create_options *options, enum vhd_type type, uint64_t size,
                    uint32_t block_size, struct image_plan *ret, struct err *err)
{
	struct image_plan plan = {0};
	struct footer *footer = &plan.footer;
	int r;

	if (size == 0 || size % VHD_SECTOR)
		return err_set(err, -EINVAL, "%s: a size of %" PRIu64 " bytes is not a multiple of 512", path, size);
	if (size > VHD_MAX_SIZE)
		return err_set(err, -EINVAL, "%s: a size of %" PRIu64 " bytes is over the format's limit of 2040 GiB", path, size);
	if (type != VHD_FIXED && (!is_power_of_two(block_size) || block_size < CREATE_MIN_BLOCK_SIZE))
		return err_set(err, -EINVAL, "%s: a block size of %" PRIu32 " bytes is not a power of two of at least %u", path,
		               block_size, CREATE_MIN_BLOCK_SIZE);
	if (type != VHD_FIXED && block_size > VHD_MAX_BLOCK_SIZE)
		return err_set(err, -EINVAL, "%s: a block size of %" PRIu32 " bytes is over %u", path, block_size,
		               VHD_MAX_BLOCK_SIZE);

	footer->type = type;
	footer->features = 2;
	footer->data_offset = VHD_NO_OFFSET;
	footer->time_stamp = time_stamp_from_unix(options->created ? *options->created : time(NULL));
	/* Creators whose Current Size QEMU believes are few; for others it takes the geometry's product. */
	memcpy(footer->creator, "win ", 4);
	footer->creator_version = 0x00060001;
	memcpy(footer->creator_os, "Wi2k", 4);
	footer->original_size = footer->current_size = size;
	footer->geometry = geometry_for_size(size);
	if (options->uuid) {
		memcpy(footer->uuid, options->uuid, sizeof(footer->uuid));
	} else {
		r = random_uuid(footer->uuid);
		if (r)
			return err_set(err, r, "%s: no random numbers for a Unique Id", path);
	}
	if (type != VHD_FIXED) {
		r = plan_sparse(path, block_size, &plan, err);
		if (r)
			return r;
	} else {
		plan.end = size;
	}
	*ret = plan;
	return 0;
}

static int table_write(struct store *store, const struct image_plan *plan)
{
	uint64_t length = round_up((uint64_t)plan->header.max_table_entries * 4, VHD_SECTOR);
	size_t chunk = length < FILL_CHUNK ? (size_t)length : FILL_CHUNK;
	void *fill = malloc(chunk);
	int r = 0;

	if (!fill)
		return -ENOMEM;
	memset(fill, 0xFF, chunk);
	for (uint64_t done = 0; done < length && r == 0; done += chunk) {
		size_t n = length - done < chunk ? (size_t)(length - done) : chunk;

		r = store->ops->write(store, fill, n, plan->header.table_offset + done);
	}
	free(fill);
	return r;
}

int image_plan_write(const struct image_plan *plan, struct store *store)
{
	struct footer_disk footer;
	struct header_disk header;
	int r = 0;

	footer_encode(&plan->footer, &footer);
	if (plan->footer.type == VHD_FIXED) {
		r = store->ops->allocate(store, 0, plan->end + sizeof(footer));
	} else {
		header_encode(&plan->header, &header);
		r = store->ops->write(store, &footer, sizeof(footer), 0);
		if (r == 0)
			r = store->ops->write(store, &header, sizeof(header), plan->footer.data_offset);
		if (r == 0)
			r = table_write(store, plan);
		for (unsigned i = 0; i < VHD_LOCATORS && r == 0; i++)
			if (plan->locator_data[i])
				r = store->ops->write(store, plan->locator_data[i], plan->header.locators[i].length,
				                      plan->header.locators[i].offset);
	}
	return r ? r : store->ops->write(store, &footer, sizeof(footer), plan->end);
}

void image_plan_done(struct image_plan *plan)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		free(plan->locator_data[i]);
}

static int image_write(struct new_file *file, const char *path, const struct image_plan *plan, struct err *err)
{
	struct store *store;
	int fd, r;

	fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	r = store_file_open_take(fd, path, STORE_WRITE, &store, err);
	if (r)
		return r;
	r = image_plan_write(plan, store);
	store_close(store);
	if (r)
		return err_set(err, r, "%s: writing its %" PRIu64 " bytes failed: %s", path, plan->end + VHD_SECTOR,
		               strerror(-r));
	return 0;
}

int image_create(struct new_file *file, const struct vhd_create_options *options, struct err *err)
{
	struct image_plan plan = {0};
	const char *path = file->path;
	enum vhd_type type;
	int r;

	type = options->type ? options->type : options->parent ? VHD_DIFFERENCING : VHD_DYNAMIC;
	if (!vhd_type_name(type))
		return err_set(err, -EINVAL, "%s: %d is no type of disk", path, (int)type);
	if ((type == VHD_DIFFERENCING) != (options->parent != NULL))
		return err_set(err, -EINVAL, options->parent ? "%s: a %s disk has no parent" : "%s: a %s disk needs a parent",
		               path, vhd_type_name(type));

	if (type == VHD_DIFFERENCING)
		r = image_plan_child(path, file, options, &plan, err);
	else
		r = image_plan_init(path, options, type, options->size_bytes ? options->size_bytes : VHD_DEFAULT_SIZE,
		                    options->block_size_bytes ? options->block_size_bytes : VHD_DEFAULT_BLOCK_SIZE, &plan, err);
	if (r == 0)
		r = image_write(file, path, &plan, err);
	image_plan_done(&plan);
	return r;
}

int vhd_create(const char *path, const struct vhd_create_options *options, struct err *err)
{
	static const struct vhd_create_options defaults;
	struct new_file file;
	int r;

	if (!options)
		options = &defaults;
	r = new_file_open(path, options->overwrite, &file, err);
	if (r)
		return r;
	r = image_create(&file, options, err);
	if (r == 0)
		r = new_file_commit(&file, err);
	new_file_done(&file);
	return r;
}
