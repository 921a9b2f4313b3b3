/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_TEMP_DIR_H
#define TESTS_LIB_TEMP_DIR_H

/* A new folder below $TMPDIR, its path allocated and with symlinks resolved. Aborts when there can be none. */
char *temp_dir_new(const char *name);

/* Removes the folder with all that is in it, and frees the path. NULL-safe. */
void temp_dir_free(char *path);

#endif
