/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_NEWFILE_H
#define VHD_NEWFILE_H

/*
 * A file that appears under its name complete, or not at all: it is made under another name beside it, and renamed.
 */

#include <stdbool.h>

#include "common/err.h"

struct newfile {
	char *path;      /* owned: the name in the end, symlinks resolved when it exists */
	char *temporary; /* owned: where to make it; nothing is there after newfile_begin */
	int replaced_fd; /* what is to be replaced, locked against users; -1: nothing */
};

/*
 * -EEXIST: `path` exists and `overwrite` is false. -EINVAL: it is no regular file. VHD_E_IN_USE: somebody has it
 * open. Ended by newfile_commit or newfile_abort, which are both safe on a struct that this left as it was.
 */
int newfile_begin(const char *path, bool overwrite, struct newfile *ret, struct err *err);

/* Makes the temporary file durable and gives it its name. On failure it is gone. */
int newfile_commit(struct newfile *file, struct err *err);

void newfile_abort(struct newfile *file);

#endif
