/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_SPARSE_H
#define TESTS_LIB_SPARSE_H

/*
 * The bytes of a file, in memory, sparse: what was never written, or was zeroed, takes none. Clones share what they
 * have in common, so that a crash test can make thousands. Not thread-safe, except that clones may live in different
 * threads. Running out of memory ends the test program.
 */

#include <stddef.h>
#include <stdint.h>

struct sparse_chunk;

struct sparse {
	uint64_t size; /* bytes */
	struct sparse_chunk ***top;
	size_t top_count;
};

void sparse_init(struct sparse *sparse);
void sparse_done(struct sparse *sparse);
void sparse_clone(const struct sparse *from, struct sparse *ret);

/* Beyond `size` it reads as zeros. */
void sparse_read(const struct sparse *sparse, void *buffer, size_t length, uint64_t offset);

/* Makes the size at least the write's end. */
void sparse_write(struct sparse *sparse, const void *buffer, size_t length, uint64_t offset);

/* The size stays. */
void sparse_zero(struct sparse *sparse, uint64_t offset, uint64_t length);

/* What lies beyond a smaller size is forgotten; what a greater one adds is zero. */
void sparse_truncate(struct sparse *sparse, uint64_t size);

/* How many bytes of memory the content takes, shared ones included. */
uint64_t sparse_used_bytes(const struct sparse *sparse);

/* To and from a real file, holes kept. 0 or -errno. */
int sparse_save(const struct sparse *sparse, const char *path);
int sparse_load(struct sparse *ret, const char *path);

#endif
