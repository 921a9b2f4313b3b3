/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_OPTIONS_H
#define MOUNTD_OPTIONS_H

/* The command line of vhd-mount. */

#include <stdbool.h>
#include <stddef.h>

struct options {
	bool read_only;
	bool raw;
	bool foreground;
	bool force;         /* write though differencing disks stand on the image */
	unsigned partition; /* 0: the only one */
	const char *parent;
	const char **allow_dirs; /* NULL-terminated; the array is the caller's to free */
	char fuse[256];          /* what goes on to FUSE, comma-separated */
	const char *image, *dir;
};

/*
 * Fills `ret`. Prints and exits by itself for --help, --version (0) and usage errors (2).
 */
void options_read(int argc, char **argv, struct options *ret);

#endif
