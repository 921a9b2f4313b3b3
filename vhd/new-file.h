/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_NEW_FILE_H
#define VHD_NEW_FILE_H

/*
 * A file that appears under its name complete and durable, or not at all.
 */

#include <stdbool.h>

#include "common/err.h"

struct new_file {
	int fd;          /* for reading and writing */
	int replaced_fd; /* what is to be replaced, locked so that nobody begins to use it; -1: nothing */
	char *path;    /* owned: as the caller said it, for sentences */
	char *target;  /* owned: the name to appear under, symlinks resolved */
	char *folder;  /* owned */
	char *temporary; /* owned: where it is while it is written; NULL: it has no name yet */
	bool overwrite;
};

/*
 * Begins a file that will be `path`. -EEXIST: `path` is there and `overwrite` is false; -EINVAL, -EISDIR: it is no
 * regular file; VHD_E_IN_USE: it is an image that someone has open; -errno.
 */
int new_file_open(const char *path, bool overwrite, struct new_file *ret, struct err *err);

/* Begins a file that will lie in the folder of `path`, which exists and is the caller's own business. -errno. */
int new_file_open_beside(const char *path, struct new_file *ret, struct err *err);

/* Syncs what was written and gives it the temporary name, durably; file->temporary says which. -errno. */
int new_file_place(struct new_file *file, struct err *err);

/*
 * Lets go of the file that is to be replaced, for who must open it meanwhile, and takes hold of it again.
 * VHD_E_IN_USE; -errno.
 */
void new_file_unlock(struct new_file *file);
int new_file_lock(struct new_file *file, struct err *err);

#define NEW_FILE_NAME_MAX 4096

/* A name to open the unfinished file under, valid in this process until it is committed. -ENAMETOOLONG. */
int new_file_name(const struct new_file *file, char ret[NEW_FILE_NAME_MAX]);

/* Syncs what was written, gives it its name, and syncs the folder. -EEXIST, or -errno. */
int new_file_commit(struct new_file *file, struct err *err);

/* Whether `name`, in the same folder, is what a new file for `target` may be called until it is committed. */
bool new_file_is_temporary(const char *name, const char *target);

/* Frees `file`; what was not committed is gone. */
void new_file_done(struct new_file *file);

#endif
