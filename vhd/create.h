/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CREATE_H
#define VHD_CREATE_H

/* Between create.c, which lays images out, and create-child.c, which ties a differencing disk to its parent. */

#include "vhd/format.h"
#include "vhd/new-file.h"
#include "vhd/store.h"

#define CREATE_MIN_BLOCK_SIZE 4096u
#define CREATE_LOCATORS_MAX 65536u /* bytes of file that a new image's locators may take together */

struct image_plan {
	struct footer footer;
	struct header header;
	uint8_t *locator_data[VHD_LOCATORS]; /* owned; header.locators[].length bytes each, or NULL */
	uint64_t end; /* where the footer goes, bytes */
};

/* Everything but what concerns a parent. -EINVAL with the reason. */
int image_plan_init(const char *path, const struct vhd_create_options *options, enum vhd_type type, uint64_t size,
                    uint32_t block_size, struct image_plan *ret, struct err *err);

/* A differencing disk's: as image_plan_init, with what the parent says; `file` is what the image will become. */
int image_plan_child(const char *path, struct new_file *file, const struct vhd_create_options *options,
                     struct image_plan *ret, struct err *err);

/*
 * Ties a differencing disk's plan, which will be `target`, to its parent; both paths absolute, symlinks resolved.
 * `time_stamp`: in seconds since VHD_EPOCH. -EINVAL: a path that the format cannot say.
 */
int image_plan_link(struct image_plan *plan, const char *target, const char *parent, const uint8_t uuid[16],
                    uint32_t time_stamp, struct err *err);

int image_plan_write(const struct image_plan *plan, struct store *store);

/* Makes an image in `file`, for its caller to commit. As vhd_create() in everything else. */
int image_create(struct new_file *file, const struct vhd_create_options *options, struct err *err);

void image_plan_done(struct image_plan *plan);

/* Seconds since VHD_EPOCH, as far as 32 bits reach. */
uint32_t time_stamp_from_unix(time_t when);

#endif
