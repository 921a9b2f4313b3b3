/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_STORE_MEMORY_H
#define TESTS_LIB_STORE_MEMORY_H

/*
 * A store (vhd/store.h) over memory. The file outlives the stores that open it, as on a disk, and any number of
 * stores may have it open.
 */

#include "tests/lib/sparse.h"
#include "vhd/store.h"

struct memory_file;

/* Takes the content over and leaves an empty one; NULL: an empty file. */
struct memory_file *memory_file_new(struct sparse *content_take);
void memory_file_free(struct memory_file *file); /* NULL-safe; no store may have it open */

/* A copy of what it holds now. */
void memory_file_content(struct memory_file *file, struct sparse *ret);

/* A store over it. `flags`: STORE_WRITE; STORE_DIRECT, which asks for 512-byte aligned requests. */
struct store *store_memory_open(struct memory_file *file, unsigned flags);

#endif
