/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_COPY_DISK_H
#define VHD_COPY_DISK_H

/*
 * Copies the content of an open disk, a chain or not, into a new file, which is complete under its name or not there.
 * For `vhd convert` and `vhd merge --output`. One thread; with a progress bar, and an end at a signal.
 */

#include "vhd/cli.h"

struct copy_disk {
	struct cli *cli;
	const struct cli_disk *source; /* open */
	const char *target_path;
	bool to_raw;
	enum vhd_type type;  /* dynamic or fixed, unless to_raw */
	uint32_t block_size; /* bytes, of a dynamic disk; 0: the default */
	bool keep_uuid;      /* the source's Unique Id; not with to_raw */
	bool force;          /* replace what is there, unless the source is made of it */
	/* Afterwards: */
	uint64_t copied_bytes; /* that were written as data */
	uint64_t file_bytes;   /* the new file's size */
};

/* CLI_OK, or CLI_FAILED with the reason printed. */
int copy_disk_run(struct copy_disk *copy);

#endif
