/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_H
#define VHD_H

/*
 * libvhd: reads, writes, creates and checks Virtual Hard Disk (VHD 1.0) images.
 *
 * Functions return 0, -errno, or one of the positive verdicts below; `err` (NULL allowed) then holds a sentence with
 * path and offset. Strings are UTF-8 and borrowed unless said otherwise. The library never logs, never exits and has
 * no global state: different images may be used from different threads freely; one struct vhd from one thread at a
 * time, while I/O on its disk follows the rules of common/blk.h. "Spec" is the Virtual Hard Disk Image Format
 * Specification of 2006-10-11, version 1.0.
 */

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "common/blk.h"
#include "common/err.h"

#ifdef __cplusplus
extern "C" {
#endif

enum vhd_verdict {
	VHD_E_NOT_VHD = 1,     /* no VHD footer at the end, nor a copy of a dynamic disk's at the start */
	VHD_E_CORRUPT,         /* damaged: the sentence names the defect and its offset */
	VHD_E_UNSUPPORTED,     /* sound as far as seen, but of a kind that this library does not handle */
	VHD_E_IN_USE,          /* another process has it open in a way that excludes this one */
	VHD_E_PARENT_MISSING,  /* a differencing disk's parent was not found */
	VHD_E_PARENT_MISMATCH, /* the file found is not the parent (its UUID differs) */
	VHD_E_PARENT_DENIED,   /* the parent lies outside the allowed folders */
	VHD_E_CHAIN,           /* the chain of parents is a cycle or deeper than VHD_MAX_LAYERS */
	VHD_E_HAS_CHILDREN,    /* differencing disks stand on it, which the change would break: asks for `force` */
	VHD_E_WOULD_LOSE,      /* data would be cut off: asks for `force` */
	VHD_E_UNKNOWN_BASE,    /* what changed since that state is not known */
};

#define VHD_MAX_LAYERS 256u
#define VHD_MAX_SIZE (UINT64_C(2040) << 30) /* bytes: 2040 GiB */
#define VHD_DEFAULT_SIZE (UINT64_C(127) << 30)
#define VHD_DEFAULT_BLOCK_SIZE (2u << 20)

enum vhd_type { /* values as in the footer (spec, "Disk Type") */
	VHD_FIXED = 2,
	VHD_DYNAMIC = 3,
	VHD_DIFFERENCING = 4,
};

struct vhd;

#define VHD_OPEN_WRITE 0x01u      /* read and write; else read only, and not a byte of the file changes */
#define VHD_OPEN_DIRECT 0x02u     /* O_DIRECT */
#define VHD_OPEN_SALVAGE 0x04u    /* read what a damaged image still holds; excludes VHD_OPEN_WRITE */
#define VHD_OPEN_NO_PARENTS 0x08u /* the one file alone, for looking at it; excludes VHD_OPEN_WRITE */
#define VHD_OPEN_DESPITE_CHILDREN 0x10u /* write though differencing disks in its folder stand on it: they will read wrong */

struct vhd_open_options {
	unsigned flags;
	const char *parent;            /* the parent's file, instead of what the image says; NULL: search */
	bool parent_raw;               /* `parent` is a raw disk, not a VHD */
	const char *const *allow_dirs; /* NULL-terminated: parents may lie in these too; always allowed: the folders
	                                  of `path` and `parent`, and below */
	/* Told of what is odd but no reason to refuse, and of what VHD_OPEN_SALVAGE could not get out. May be NULL. */
	void (*warn)(void *user, const char *sentence);
	void *user;
};

/*
 * Opens an image and, for a differencing disk, its parents, and locks them all as QEMU does (docs/vhd-format.md,
 * "Locks"). `options` NULL: read only. 0, a verdict, or -errno: -EROFS for writing to an image on a block device;
 * VHD_E_HAS_CHILDREN for writing to one that differencing disks in its folder stand on. Opening for writing removes what
 * a vhd_switch_child that was cut off left beside the image.
 */
int vhd_open(const char *path, const struct vhd_open_options *options, struct vhd **ret, struct err *err);

/*
 * Makes everything durable, puts the footer at the end, unlocks, and frees `vhd` whatever it returns: 0 or -errno.
 * Queues must be freed before. NULL-safe.
 */
int vhd_close(struct vhd *vhd, struct err *err);

/* The disk, for I/O; borrowed, never to be closed by itself. */
struct blk *vhd_blk(struct vhd *vhd);

struct vhd_geometry {
	uint16_t cylinders;
	uint8_t heads;
	uint8_t sectors_per_track;
};

struct vhd_info {
	const char *path;
	enum vhd_type type;
	bool raw;                 /* a raw parent (Xen): only path, size_bytes and file_size_bytes hold */
	uint64_t size_bytes;      /* Current Size */
	uint64_t original_size_bytes;
	uint64_t file_size_bytes;
	uint32_t block_size_bytes; /* 0 for fixed disks */
	uint32_t block_count;      /* 0 for fixed disks */
	uint32_t allocated_blocks; /* 0 for fixed disks */
	uint8_t uuid[16];
	char creator[5]; /* four bytes and NUL; unprintable ones shown as '.' */
	uint32_t creator_version;
	char creator_host_os[5];
	time_t created;
	struct vhd_geometry geometry; /* as stored; never decides the size */
	bool saved_state;
	bool temporary;
	bool footer_from_copy; /* the one at the end is missing or damaged */
	bool has_batmap;       /* Xen's */
	bool payload_aligned;  /* every allocated block's data starts at a multiple of 4096 */
	/* Differencing disks: */
	uint8_t parent_uuid[16];
	time_t parent_modified;  /* as the child's header says */
	const char *parent_name; /* from the header; NULL if none or not UTF-16 */
	const char *parent_path; /* where it was found; NULL if not looked for or not found */
};

/* How many files the chain has, the leaf included. */
unsigned vhd_layer_count(const struct vhd *vhd);

/* Layer 0 is the leaf. `layer` is below vhd_layer_count. Strings live as long as `vhd`. */
void vhd_layer_info(const struct vhd *vhd, unsigned layer, struct vhd_info *ret);

struct vhd_create_options {
	enum vhd_type type;        /* 0: dynamic, or differencing when `parent` is given */
	uint64_t size_bytes;       /* 0: 127 GiB, or the parent's; a multiple of 512 */
	uint32_t block_size_bytes; /* 0: 2 MiB; a power of two of 4 KiB at least */
	const char *parent;        /* differencing: path of the parent */
	bool parent_raw;           /* the parent is a raw disk (Xen's null-UUID parent) */
	const char *const *allow_dirs; /* as in vhd_open_options, for the parent's own parents */
	bool overwrite;            /* replace an existing file (atomically, once the new one is complete) */
	const uint8_t *uuid;       /* 16 bytes; NULL: random */
	const time_t *created;     /* NULL: now */
	void (*warn)(void *user, const char *sentence); /* for opening the parent; may be NULL */
	void *user;
};

/*
 * Creates an image, complete and durable under its name or not there at all. 0, a verdict about the parent, -EEXIST,
 * -EINVAL with the reason, or -errno.
 */
int vhd_create(const char *path, const struct vhd_create_options *options, struct err *err);

enum vhd_severity {
	VHD_NOTE,    /* unusual, harmless */
	VHD_WARNING, /* against the rules, but nothing is lost or ambiguous */
	VHD_DAMAGE,  /* data is lost, ambiguous or in danger */
};

struct vhd_defect {
	enum vhd_severity severity;
	const char *code;     /* stable, for programs: "footer-checksum", "bat-overlap", ... (docs/vhd-format.md) */
	const char *path;     /* the file it is in */
	uint64_t offset;      /* in that file, bytes */
	const char *sentence; /* for people; without the path */
};

struct vhd_check_options {
	const char *parent;
	bool parent_raw;
	const char *const *allow_dirs;
	bool one_file; /* do not look at the parents */
	void (*defect)(void *user, const struct vhd_defect *defect); /* each as it is found; may be NULL */
	void (*progress)(void *user, uint64_t done, uint64_t total);  /* blocks; may be NULL */
	void *user;
};

struct vhd_check_result {
	unsigned layers;
	uint64_t blocks;
	uint64_t allocated_blocks;
	uint64_t unused_bytes; /* of the files, in no structure: gaps, reserved or leaked space */
	unsigned notes, warnings, damages;
};

/*
 * Reads all metadata of the image and its parents and reports every defect; changes nothing. 0: no damage;
 * VHD_E_CORRUPT: damage was reported; other verdicts and -errno: could not check.
 */
int vhd_check(const char *path, const struct vhd_check_options *options, struct vhd_check_result *ret,
              struct err *err);

/* --- Long work, watched and steered from any thread --- */

struct vhd_job;

struct vhd_job_status {
	uint64_t done_bytes, total_bytes; /* total 0: not known yet */
	uint64_t rate;                    /* the limit, bytes a second; 0: none */
	bool paused, cancelled;
};

/* One job steers one call at a time. -ENOMEM. */
int vhd_job_new(struct vhd_job **ret, struct err *err);
void vhd_job_free(struct vhd_job *job); /* NULL-safe; no call may be using it */

/* The call ends soon with -ECANCELED; what it has done so far stays, and the image is sound. */
void vhd_job_cancel(struct vhd_job *job);
void vhd_job_pause(struct vhd_job *job, bool paused);
void vhd_job_set_rate(struct vhd_job *job, uint64_t bytes_per_second); /* 0: no limit */
void vhd_job_status(struct vhd_job *job, struct vhd_job_status *ret);

/*
 * --- Upkeep of an open disk ---
 *
 * `vhd` was opened with VHD_OPEN_WRITE. Each call may come from any thread that polls no queue of the disk, and blocks
 * until it is done, while queues go on reading and writing (docs/architecture.md, "Upkeep"). One at a time for a disk:
 * -EBUSY. Killed or cut off at any moment, every image opens, with all that a FLUSH covered; the same call again goes
 * on from there.
 */

struct vhd_merge_options {
	unsigned layer;       /* which to merge: 0 the leaf, ... */
	unsigned into;        /* and into which below it; 0: the next */
	bool force;           /* though other disks stand on the layers that change */
	bool keep;            /* leave the files of the merged layers where they are */
	bool rename;          /* layer 0: what it was merged into takes its name, at the end */
	/*
	 * Nobody uses the disk until the call returns: queues cannot be made meanwhile, and there are none, else -EBUSY. Then
	 * the leaf too is copied and stays whole until the end, and what it had changed can be recorded.
	 */
	bool idle;
	bool no_checkpoint;   /* keep no record of what the merged layers had changed (vhd_changed) */
	struct vhd_job *job;  /* may be NULL */
	void (*warn)(void *user, const char *sentence);
	void *user;
};

struct vhd_merge_result {
	uint64_t merged_bytes;  /* data that the layers held */
	uint64_t written_bytes; /* to the file merged into, metadata included */
};

/*
 * Moves what the layers from `layer` to the one above `into` hold into layer `into`, which then takes the Unique Id of
 * `layer`; the merged layers leave the chain, and their files the folder. 0; VHD_E_HAS_CHILDREN; VHD_E_IN_USE: the
 * layer merged into is open elsewhere; -ECANCELED; -errno.
 */
int vhd_merge(struct vhd *vhd, const struct vhd_merge_options *options, struct vhd_merge_result *ret, struct err *err);

struct vhd_child;

/*
 * Prepares a differencing disk that will stand on the open disk: it lies complete and durable in the disk's folder,
 * under a name of no meaning. `frozen`: the name that the present leaf will have (in the same folder; must not exist).
 * Freed by vhd_switch_child or vhd_child_abandon. -EEXIST, -errno.
 */
int vhd_child_prepare(struct vhd *vhd, const char *frozen, struct vhd_child **ret, struct err *err);

/*
 * Makes the child the leaf, under the name that the leaf had; what was the leaf becomes its parent under the frozen
 * name, and does not change any more. Writes go to the child at once; the call returns when those to the old leaf have
 * ended and its file is in its state of rest. No FLUSH completes before the names are durable. `child` is freed. After
 * an error the disk is as before.
 */
int vhd_switch_child(struct vhd *vhd, struct vhd_child *child, struct err *err);
void vhd_child_abandon(struct vhd_child *child); /* removes its file; NULL-safe */

struct vhd_resize_options {
	bool force;          /* cut off data; though other disks stand on this one; though it belongs to a saved state */
	struct vhd_job *job; /* may be NULL */
};

struct vhd_resize_result {
	/*
	 * Data beyond the new end: that was cut, or that VHD_E_WOULD_LOSE is about. Blocks wholly beyond it count as a
	 * whole; in a fixed disk, and in the block in which the disk will end, sectors that are not zero count.
	 */
	uint64_t cut_bytes;
};

/*
 * Gives the disk another size, a multiple of 512 bytes; what a larger one adds reads as zeros. Queues may be at work
 * while it grows. When it shrinks they should not be: requests beyond the new end get -EINVAL, those that had begun are
 * waited for. With the size that the disk has already: cuts what an interrupted call left behind a fixed disk.
 * 0; VHD_E_WOULD_LOSE; VHD_E_HAS_CHILDREN; -EPERM: saved state; -EINVAL; -ENOSPC and other -errno; -ECANCELED: after all
 * these the size is as before, but where the sentence says otherwise.
 */
int vhd_resize(struct vhd *vhd, uint64_t size_bytes, const struct vhd_resize_options *options,
               struct vhd_resize_result *ret, struct err *err);

/* Called, in the thread of vhd_resize, when the disk has its new size. `resized` NULL: no more. */
void vhd_on_resize(struct vhd *vhd, void (*resized)(void *user, uint64_t size_bytes), void *user);

struct vhd_extent {
	uint64_t offset, length; /* bytes */
};

struct vhd_compact_options {
	/*
	 * What no file system on the disk uses, sorted: its content is thrown away. Only while the disk has no queues
	 * (-EINVAL), as it is out of date with the first write.
	 */
	const struct vhd_extent *unused;
	size_t unused_count;
	bool keep_zeros;     /* do not read blocks to find those that hold only zeros */
	struct vhd_job *job; /* may be NULL */
};

struct vhd_compact_result {
	uint64_t before_bytes, after_bytes; /* the file's size */
	uint64_t space_before_bytes, space_after_bytes; /* what it takes of its file system */
	uint32_t freed_blocks, moved_blocks;
};

/*
 * Gives back blocks that hold nothing, moves others to close gaps, and cuts the file; a fixed disk gets holes where it
 * holds zeros, while it has no queues (-EBUSY). `ret` holds also after a failure. 0, -ECANCELED, -errno.
 */
int vhd_compact(struct vhd *vhd, const struct vhd_compact_options *options, struct vhd_compact_result *ret,
                struct err *err);

/*
 * --- Changed blocks ---
 *
 * The Unique Id of a layer names the state of the disk that it froze when another was put on it; when layers are merged
 * into a lower one, that one takes the Unique Id of the topmost of them, whose state it has then.
 */

struct vhd_changed_options {
	const uint8_t *since; /* 16 bytes: the state to compare with; NULL: the leaf's parent */
	const char *parent;   /* this and the next two as in vhd_open_options */
	bool parent_raw;
	const char *const *allow_dirs;
	struct vhd_job *job; /* in blocks, not bytes; may be NULL */
	void (*warn)(void *user, const char *sentence);
	void (*progress)(void *user, uint64_t done, uint64_t total); /* blocks; may be NULL */
	/*
	 * In order of offset, none touching the next; the result is filled in before the first. Not 0: the call ends and
	 * returns it. NULL: only the result is wanted.
	 */
	int (*extent)(void *user, const struct vhd_extent *extent);
	void *user;
};

struct vhd_changed_result {
	uint8_t since[16];         /* all zeros: a raw parent */
	uint8_t uuid[16];          /* the leaf's */
	uint64_t since_size_bytes; /* of the disk then */
	uint64_t size_bytes;       /* and now */
	uint64_t extents;
	uint64_t changed_bytes;
	unsigned layers;      /* whose sectors are listed */
	unsigned checkpoints; /* files that say what layers held that are merged away */
};

/*
 * Lists what differs between a state and the disk as the image at `path` holds it now: every range that reads otherwise
 * than then, and all beyond the end that the disk had then. It may list more, never less. 0; VHD_E_UNKNOWN_BASE: what
 * changed since that state is not known (that of the image itself never is: it may still be written to); the verdicts
 * of vhd_open; -ECANCELED; -errno.
 */
int vhd_changed(const char *path, const struct vhd_changed_options *options, struct vhd_changed_result *ret,
                struct err *err);

/*
 * --- Repair ---
 *
 * Of one file; its parents are looked at and left alone. First everything is planned and the plan checked: if it does
 * not lead to a file without damage, the file stays as it is. Then what will be overwritten or cut off goes to a side
 * file, then the changes are made, in an order that leaves the file no worse wherever it is interrupted; the same call
 * again goes on from there.
 */

enum vhd_repair_state {
	VHD_REPAIR_PLANNED, /* dry_run: it would be done */
	VHD_REPAIR_DONE,
	VHD_REPAIR_REFUSED, /* damage that stays; the sentence says why, and what to do */
};

struct vhd_repair_step {
	enum vhd_repair_state state;
	const char *code;     /* as of struct vhd_defect */
	const char *path;     /* the file it is in */
	uint64_t offset;      /* in that file, bytes */
	const char *sentence; /* for people; without the path */
};

struct vhd_repair_loss {
	uint64_t offset, length; /* of the disk, bytes */
	bool doubtful;           /* it is there, but may be another block's; else it is lost, and reads as zeros or as the
	                            parent's */
	const char *sentence;
};

struct vhd_repair_options {
	bool dry_run;
	bool force;             /* do what rests on an assumption: another parent's identity, a fixed disk without any footer */
	bool clear_saved_state;
	const char *side_file;  /* must not exist; NULL: PATH.repair, or PATH.repair.2, ... */
	const char *parent;     /* as for vhd_check; with `force`, its identity is written into the image */
	bool parent_raw;
	const char *const *allow_dirs;
	bool one_file;          /* do not look at the parents */
	void (*step)(void *user, const struct vhd_repair_step *step);        /* may be NULL, as the next three */
	void (*loss)(void *user, const struct vhd_repair_loss *loss);
	void (*defect)(void *user, const struct vhd_defect *defect);         /* of the check at the end */
	void (*progress)(void *user, uint64_t done, uint64_t total);         /* bytes written; then blocks checked */
	void *user;
};

#define VHD_SIDE_FILE_MAX 4096

struct vhd_repair_result {
	unsigned steps, refused;
	uint64_t changed_bytes;  /* of the image: written, zeroed or cut off */
	uint64_t lost_bytes, doubtful_bytes; /* of the disk */
	char side_file[VHD_SIDE_FILE_MAX]; /* that was written; "" if none */
	struct vhd_check_result after; /* dry_run: of the plan, the one file alone */
};

/*
 * 0: no damage is left (dry_run: none would be); VHD_E_CORRUPT: damage is left that it refused to touch; other verdicts
 * and -errno: it could not be done, or not to the end.
 */
int vhd_repair(const char *path, const struct vhd_repair_options *options, struct vhd_repair_result *ret,
               struct err *err);

/*
 * Puts back what a repair of `path` saved in `side_file`. Refused with VHD_E_WOULD_LOSE, unless `force`, when the image
 * has changed since. -errno.
 */
int vhd_repair_undo(const char *path, const char *side_file, bool force, struct err *err);

/* --- Another parent, for an image that nobody has open --- */

struct vhd_rebase_options {
	const char *parent;   /* the new parent; NULL: none, and the disk becomes a dynamic one that stands alone */
	bool parent_raw;      /* it is a raw disk */
	const char *const *allow_dirs; /* as in vhd_open_options, for the parents on either side */
	bool unsafe;          /* change what the disk says of its parent, and copy nothing */
	bool force;           /* unsafe: though the parent has another size, or disks stand on this one */
	struct vhd_job *job;  /* may be NULL */
	void (*warn)(void *user, const char *sentence);
	void *user;
};

struct vhd_rebase_result {
	uint64_t copied_bytes; /* from the old parents into the disk */
};

/*
 * Gives the differencing disk `path` another parent. What it reads stays the same: where the new parents hold something
 * else, what the old ones hold is copied into it first. The old parents must be there, unless the new one has the Unique
 * Id that the disk names. Killed at any moment, the disk reads the same, and the call may be made again. 0; verdicts
 * about either chain; VHD_E_CHAIN: the new parent stands on the disk; -ECANCELED; -errno. vhd_job_status counts bytes of
 * the disk that were compared.
 */
int vhd_rebase(const char *path, const struct vhd_rebase_options *options, struct vhd_rebase_result *ret,
               struct err *err);

/* "6e4ac331-97a1-4d52-8a5f-1c3f2a9d0c11"; `ret` holds 37 bytes. */
void vhd_uuid_text(const uint8_t uuid[16], char *ret);

/* A word for a type ("fixed", "dynamic", "differencing"), or NULL. */
const char *vhd_type_name(enum vhd_type type);

/* "1.0.0", the library's version. */
const char *vhd_version(void);

#ifdef __cplusplus
}
#endif

#endif
