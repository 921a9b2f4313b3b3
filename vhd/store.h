/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_STORE_H
#define VHD_STORE_H

/*
 * One file of a chain, as the engine sees it. The functions here block and may be called from any thread; request
 * I/O goes through a ring that knows `file`. Tests put fakes here that trace, fail or forget (tests/lib).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/ring.h"

struct store;

/* What a sync stands for. Real files ignore it; tests take out one kind at a time and expect data to be lost. */
enum store_barrier {
	STORE_BARRIER_SLOTS,    /* new slots' size and zeros, before a BAT entry points there */
	STORE_BARRIER_DATA,     /* data, before the bits and entries that show it */
	STORE_BARRIER_METADATA, /* bits and entries: a FLUSH is done after this one */
	STORE_BARRIER_FOOTER,   /* the footer at the end, before the file is cut there */
	STORE_BARRIER_CLOSE,    /* the cut, before close returns */
	STORE_BARRIER_UNSEAL,   /* no footer at the end any more, before its copy at 0 changes */
	STORE_BARRIER_HEADER,   /* another header with all that it names, before the copy at 0 names it */
	STORE_BARRIER_SWITCH,   /* the copy at 0, before what it named until then is overwritten or cut off */
	STORE_BARRIER_NEW_FILE, /* a whole new file, before it gets its name: new-file.c, past any store */
	/* Of a resize (docs/durability.md): */
	STORE_BARRIER_TABLE,  /* a larger or moved BAT, before the header that says so, which a flush makes durable */
	STORE_BARRIER_SIZE,   /* the footer with the new size */
	STORE_BARRIER_MARK,   /* fixed: the mark in the footer, before the file grows behind it */
	STORE_BARRIER_EXTEND, /* fixed: the footer at the new end, before the file is cut there */
	STORE_BARRIER_FIT,    /* fixed: that cut, before the marked footer goes */
	STORE_BARRIER_CLEAR,  /* fixed: zeros in the new range, before the size that shows it */
};

struct store_ops {
	/* The whole range or -errno; -ENODATA: it reaches beyond the end of the file. */
	int (*read)(struct store *store, void *buffer, size_t length, uint64_t offset);
	int (*write)(struct store *store, const void *buffer, size_t length, uint64_t offset);
	int (*sync)(struct store *store, enum store_barrier why); /* fdatasync */
	/* The file's size becomes at least offset + length; new bytes read as zeros, with space reserved where it can be. */
	int (*allocate)(struct store *store, uint64_t offset, uint64_t length);
	int (*punch)(struct store *store, uint64_t offset, uint64_t length); /* reads as zeros after; size unchanged */
	int (*truncate)(struct store *store, uint64_t size);
	int (*size)(struct store *store, uint64_t *ret);
	int (*ring_new)(struct store *store, struct ring **ret, struct err *err); /* one that can serve this store */
	/*
	 * Another store of the same file, for writing and with the writer's lock, which this one, opened for reading, does
	 * not stand in the way of any more. `path` is for sentences. VHD_E_IN_USE: others have the file open; -errno.
	 */
	int (*raise)(struct store *store, const char *path, struct store **ret, struct err *err);
	/* Nothing will be written any more: others may read the file too. */
	void (*lower)(struct store *store);
	void (*close)(struct store *store);
};

struct store {
	const struct store_ops *ops;
	struct ring_file file;
	bool read_only;
	bool direct;           /* O_DIRECT */
	bool block_device;
	bool sync_failed;      /* of a change of footer or header (relink.c) */
	uint32_t offset_align; /* bytes: of offsets and lengths of direct I/O; else 1 */
	uint32_t memory_align; /* bytes: of buffers of direct I/O; else 1 */
};

#define STORE_WRITE 0x01u
#define STORE_DIRECT 0x02u

/*
 * Opens a regular file or (read-only) a block device; anything else is refused. The blocking functions of a direct
 * store take any alignment and bounce. `ret` is closed with store_close.
 */
int store_file_open(const char *path, unsigned flags, struct store **ret, struct err *err);

/* The same for a descriptor that the store takes over, also on failure. `path` is for sentences. */
int store_file_open_take(int fd, const char *path, unsigned flags, struct store **ret, struct err *err);

static inline void store_close(struct store *store)
{
	if (store)
		store->ops->close(store);
}

#endif
