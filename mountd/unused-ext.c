/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Free blocks of ext2, ext3 and ext4. The block bitmaps are read group by group and each is held against its checksum,
 * against the group's count of free clusters, and against where the metadata of all groups lies: that has to be marked
 * as used, except in groups whose bitmap was never written (BLOCK_UNINIT), where nothing but metadata is used. Without
 * checksums (metadata_csum) that leaves room for damage, so then the blocks of all files are gathered and compared too.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "mountd/ext.h"
#include "mountd/unused.h"

#define FSCK "run e2fsck -f on it in a vhd-mount --raw mount"
#define ORPHAN_PRESENT 0x10000u /* RO_COMPAT; not in the headers of all versions */

/* None of these changes what a clear bit in a block bitmap means. */
static const uint32_t incompat_known = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT2_FEATURE_INCOMPAT_META_BG |
	EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_FLEX_BG |
	EXT4_FEATURE_INCOMPAT_EA_INODE | EXT4_FEATURE_INCOMPAT_CSUM_SEED | EXT4_FEATURE_INCOMPAT_LARGEDIR |
	EXT4_FEATURE_INCOMPAT_INLINE_DATA | EXT4_FEATURE_INCOMPAT_ENCRYPT | EXT4_FEATURE_INCOMPAT_CASEFOLD;

static const uint32_t ro_compat_known = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
	EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
	EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_QUOTA | EXT4_FEATURE_RO_COMPAT_BIGALLOC |
	EXT4_FEATURE_RO_COMPAT_METADATA_CSUM | EXT4_FEATURE_RO_COMPAT_READONLY | EXT4_FEATURE_RO_COMPAT_PROJECT |
	EXT4_FEATURE_RO_COMPAT_VERITY;

struct blocks {
	uint64_t first, count;
};

struct ext_scan {
	const struct volume *volume;
	struct ext_io *io;
	ext2_filsys lib;
	uint64_t block_count;
	uint32_t cluster_blocks;
	struct blocks *metadata; /* ascending once all are known; may overlap */
	size_t metadata_count, metadata_capacity;
	size_t metadata_next; /* the first that may reach into the group at hand */
	uint8_t *used;        /* a bit for each cluster of the group at hand */
	uint8_t *owned;       /* a bit for each cluster of all groups: a file has it; NULL: not gathered */
	uint64_t visited;     /* blocks of files, while they are gathered */
	bool stray;           /* one of them lies outside, or there are too many */
	struct unused_list *list;
};

/* Before the library allocates what a superblock says: that it fits. */
static int check_size(const struct volume *volume, struct err *err)
{
	struct ext2_super_block super;
	uint64_t count, bytes;
	uint32_t log;
	int e = volume_read(volume, &(struct piece){&super, sizeof(super), 1024}, 1);

	if (e)
		return err_set(err, e, "the superblock cannot be read: %s", strerror(-e));
	log = ext2fs_le32_to_cpu(super.s_log_block_size);
	count = ext2fs_le32_to_cpu(super.s_blocks_count);
	if (ext2fs_le32_to_cpu(super.s_feature_incompat) & EXT4_FEATURE_INCOMPAT_64BIT)
		count |= (uint64_t)ext2fs_le32_to_cpu(super.s_blocks_count_hi) << 32;
	if (log > 6)
		return err_set(err, -EUCLEAN, "its superblock is damaged (block size): " FSCK);
	if (!checked_mul(count, 1024u << log, &bytes) || bytes > volume->size)
		return err_set(err, -EUCLEAN, "it says that it has %llu blocks of %u bytes, more than there is room for: the "
		               "partition or the image was cut", (unsigned long long)count, 1024u << log);
	return 0;
}

static int check_state(const struct ext2_super_block *super, struct err *err)
{
	uint32_t incompat = super->s_feature_incompat, ro_compat = super->s_feature_ro_compat;

	if (incompat & EXT3_FEATURE_INCOMPAT_JOURNAL_DEV)
		return err_set(err, -EUCLEAN, "it is the journal of a file system that lies elsewhere");
	if (incompat & EXT3_FEATURE_INCOMPAT_RECOVER)
		return err_set(err, -EUCLEAN, "its journal holds changes that are not applied yet (it was not shut down, or is in "
		               "use): let its system boot and shut down once, or " FSCK);
	if (incompat & EXT4_FEATURE_INCOMPAT_MMP)
		return err_set(err, -EUCLEAN, "it is protected against several machines at once (mmp), so another one may be "
		               "using it");
	if (incompat & ~incompat_known)
		return err_set(err, -EUCLEAN, "it uses features that are not known here (incompat 0x%x)",
		               incompat & ~incompat_known);
	if (super->s_state & EXT2_ERROR_FS || super->s_error_count)
		return err_set(err, -EUCLEAN, "it has recorded errors: " FSCK);
	if (!(super->s_state & EXT2_VALID_FS) || super->s_last_orphan || ro_compat & ORPHAN_PRESENT)
		return err_set(err, -EUCLEAN, "it was not unmounted cleanly, or is in use: let its system boot and shut down once, "
		               "or " FSCK);
	if (ro_compat & ~ro_compat_known)
		return err_set(err, -EUCLEAN, "it uses features that are not known here (ro_compat 0x%x)",
		               ro_compat & ~ro_compat_known);
	return 0;
}

static int damaged_group(struct err *err, dgrp_t group, const char *what)
{
	return err_set(err, -EUCLEAN, "it is damaged: group %u, %s; " FSCK, group, what);
}

/* `count` blocks of metadata that the descriptor of `group` speaks of. */
static int metadata_add(struct ext_scan *s, dgrp_t group, uint64_t first, uint64_t count, struct err *err)
{
	if (!range_inside(first, count, s->block_count))
		return damaged_group(err, group, "its metadata lies beyond the end");
	if (s->metadata_count == s->metadata_capacity) {
		size_t capacity = s->metadata_capacity ? s->metadata_capacity * 2 : 256;
		struct blocks *all = reallocarray(s->metadata, capacity, sizeof(*all));

		if (!all)
			return err_set(err, -ENOMEM, "out of memory");
		s->metadata = all;
		s->metadata_capacity = capacity;
	}
	s->metadata[s->metadata_count++] = (struct blocks){first, count};
	return 0;
}

static int metadata_add_group(struct ext_scan *s, dgrp_t group, struct err *err)
{
	const struct ext2_super_block *super = s->lib->super;
	bool meta_bg = super->s_feature_incompat & EXT2_FEATURE_INCOMPAT_META_BG;
	uint64_t old_count = meta_bg ? super->s_first_meta_bg
	                             : (uint64_t)s->lib->desc_blocks + super->s_reserved_gdt_blocks;
	const struct blocks tables[] = {
		{ext2fs_block_bitmap_loc(s->lib, group), 1},
		{ext2fs_inode_bitmap_loc(s->lib, group), 1},
		{ext2fs_inode_table_loc(s->lib, group), s->lib->inode_blocks_per_group},
	};
	blk64_t super_block, old_descs, new_descs;
	int e = 0;

	if (ext2fs_super_and_bgd_loc2(s->lib, group, &super_block, &old_descs, &new_descs, NULL))
		return damaged_group(err, group, "its place is not known");
	/* With the boot block in front. */
	if (group == 0)
		e = metadata_add(s, group, 0, super_block + 1, err);
	else if (super_block)
		e = metadata_add(s, group, super_block, 1, err);
	if (!e && old_descs && old_count)
		e = metadata_add(s, group, old_descs, old_count, err);
	if (!e && new_descs)
		e = metadata_add(s, group, new_descs, 1, err);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && !e; i++) {
		if (tables[i].first <= super->s_first_data_block)
			return damaged_group(err, group, "its metadata lies before the first block");
		e = metadata_add(s, group, tables[i].first, tables[i].count, err);
	}
	return e;
}

static int compare_blocks(const void *a, const void *b)
{
	const struct blocks *x = a, *y = b;

	return (x->first > y->first) - (x->first < y->first);
}

static int metadata_find(struct ext_scan *s, struct err *err)
{
	size_t kept = 0;
	int e = 0;

	for (dgrp_t group = 0; group < s->lib->group_desc_count && !e; group++) {
		if (!ext2fs_group_desc_csum_verify(s->lib, group))
			e = damaged_group(err, group, "the checksum of its descriptor is wrong");
		else
			e = metadata_add_group(s, group, err);
	}
	if (e)
		return e;
	qsort(s->metadata, s->metadata_count, sizeof(*s->metadata), compare_blocks);
	/* Merged, so that each group walks over few, whatever hostile descriptors pile up. */
	for (size_t i = 0; i < s->metadata_count; i++) {
		struct blocks *last = &s->metadata[kept ? kept - 1 : 0];
		const struct blocks *next = &s->metadata[i];

		if (kept && next->first <= last->first + last->count) {
			if (next->first + next->count > last->first + last->count)
				last->count = next->first + next->count - last->first;
		} else {
			s->metadata[kept++] = *next;
		}
	}
	s->metadata_count = kept;
	return 0;
}

/* Marks metadata in the group's `used`; blocks `first` to `end` - 1. */
static int mark_metadata(struct ext_scan *s, dgrp_t group, uint64_t first, uint64_t end, bool uninit, struct err *err)
{
	while (s->metadata_next < s->metadata_count &&
	       s->metadata[s->metadata_next].first + s->metadata[s->metadata_next].count <= first)
		s->metadata_next++;
	for (size_t i = s->metadata_next; i < s->metadata_count && s->metadata[i].first < end; i++) {
		const struct blocks *m = &s->metadata[i];
		uint64_t from = m->first > first ? m->first : first;
		uint64_t to = m->first + m->count < end ? m->first + m->count : end;

		for (uint64_t c = (from - first) / s->cluster_blocks; c <= (to - 1 - first) / s->cluster_blocks; c++) {
			uint8_t bit = (uint8_t)(1u << c % 8);

			if (!uninit && !(s->used[c / 8] & bit))
				return damaged_group(err, group, "its bitmap says that metadata is free");
			s->used[c / 8] |= bit;
		}
	}
	return 0;
}

static void own(struct ext_scan *s, uint64_t block)
{
	uint64_t cluster = (block - s->lib->super->s_first_data_block) / s->cluster_blocks;

	/* No block belongs to two files: that bounds the work too. */
	if (block < s->lib->super->s_first_data_block || block >= s->block_count || ++s->visited > s->block_count)
		s->stray = true;
	else
		s->owned[cluster / 8] |= (uint8_t)(1u << cluster % 8);
}

static int own_block(ext2_filsys lib, blk64_t *block, e2_blkcnt_t index, blk64_t parent, int offset, void *user)
{
	struct ext_scan *s = user;

	(void)lib;
	(void)index;
	(void)parent;
	(void)offset;
	own(s, *block);
	return s->stray ? BLOCK_ABORT : 0;
}

static int own_inode(struct ext_scan *s, ext2_ino_t number, struct ext2_inode *inode, struct err *err)
{
	uint64_t attributes = ext2fs_file_acl_block(s->lib, inode);
	errcode_t code = 0;

	/* Those of the file system itself (journal, bad blocks, ...) have no name and some no links. */
	if (inode->i_links_count == 0 && number >= EXT2_FIRST_INO(s->lib->super))
		return 0;
	/* The one block of attributes may be shared by many. */
	if (attributes) {
		s->visited--;
		own(s, attributes);
	}
	if (!s->stray && ext2fs_inode_has_valid_blocks2(s->lib, inode))
		code = ext2fs_block_iterate3(s->lib, number, BLOCK_FLAG_READ_ONLY, NULL, own_block, s);
	if (code || s->stray)
		return err_set(err, -EUCLEAN, "it is damaged: where inode %u lies; " FSCK, number);
	return 0;
}

static int own_files(struct ext_scan *s, struct err *err)
{
	uint64_t clusters = (uint64_t)s->lib->super->s_clusters_per_group * s->lib->group_desc_count;
	ext2_inode_scan inodes;
	errcode_t code;
	int e = 0;

	s->owned = calloc(1, (size_t)(clusters / 8));
	if (!s->owned)
		return err_set(err, -ENOMEM, "there is not enough memory for its size");
	s->visited = 1; /* so that it never falls below zero */
	code = ext2fs_open_inode_scan(s->lib, 0, &inodes);
	if (code)
		return err_set(err, ext_errno(code), "its inodes cannot be read (%s): " FSCK, error_message(code));
	while (!e && !code) {
		struct ext2_inode inode;
		ext2_ino_t number;

		code = ext2fs_get_next_inode(inodes, &number, &inode);
		if (code)
			e = err_set(err, ext_errno(code), "its inodes cannot be read (%s): " FSCK, error_message(code));
		else if (number == 0)
			break;
		else
			e = own_inode(s, number, &inode, err);
	}
	ext2fs_close_inode_scan(inodes);
	return e;
}

static int check_owned(const struct ext_scan *s, dgrp_t group, struct err *err)
{
	uint32_t bytes = s->lib->super->s_clusters_per_group / 8;
	const uint8_t *owned = s->owned + (uint64_t)group * bytes;

	for (uint32_t i = 0; i < bytes; i++)
		if (owned[i] & ~s->used[i])
			return damaged_group(err, group, "its bitmap says that a block of a file is free");
	return 0;
}

static int read_bitmap(struct ext_scan *s, dgrp_t group, bool uninit, struct err *err)
{
	uint32_t bytes = s->lib->super->s_clusters_per_group / 8;
	const uint8_t *bitmap;
	int e;

	if (uninit) {
		memset(s->used, 0, bytes);
		return 0;
	}
	e = ext_io_peek(s->io, ext2fs_block_bitmap_loc(s->lib, group), &bitmap);
	if (e)
		return err_set(err, e, "the bitmap of group %u cannot be read: %s", group, strerror(-e));
	memcpy(s->used, bitmap, bytes);
	if (!ext2fs_block_bitmap_csum_verify(s->lib, group, (char *)s->used, (int)bytes))
		return damaged_group(err, group, "the checksum of its bitmap is wrong");
	return 0;
}

static uint64_t clear_bits(const uint8_t *bits, uint64_t count)
{
	uint64_t set = 0;

	for (uint64_t i = 0; i < count / 8; i++)
		set += (unsigned)__builtin_popcount(bits[i]);
	for (uint64_t i = count / 8 * 8; i < count; i++)
		set += bits[i / 8] >> i % 8 & 1;
	return count - set;
}

static int scan_group(struct ext_scan *s, dgrp_t group, struct err *err)
{
	uint64_t first = ext2fs_group_first_block2(s->lib, group);
	uint64_t end = ext2fs_group_last_block2(s->lib, group) + 1;
	uint64_t clusters = (end - first + s->cluster_blocks - 1) / s->cluster_blocks;
	/* Without checksums of the descriptors the flag has no meaning. */
	bool uninit = ext2fs_has_group_desc_csum(s->lib) && ext2fs_bg_flags_test(s->lib, group, EXT2_BG_BLOCK_UNINIT);
	int e;

	if (first >= end || end > s->block_count || clusters > s->lib->super->s_clusters_per_group)
		return damaged_group(err, group, "its size is wrong");
	e = read_bitmap(s, group, uninit, err);
	if (!e)
		e = mark_metadata(s, group, first, end, uninit, err);
	if (e)
		return e;
	if (clear_bits(s->used, clusters) != ext2fs_bg_free_blocks_count(s->lib, group))
		return damaged_group(err, group, "its bitmap and its count of free blocks differ");
	e = s->owned ? check_owned(s, group, err) : 0;
	if (e)
		return e;
	/* The last cluster may be cut by the end of the file system; it is left alone. */
	clusters = (end - first) / s->cluster_blocks;
	e = unused_add_clear_bits(s->list, s->used, clusters, first * s->lib->blocksize,
	                          (uint64_t)s->cluster_blocks * s->lib->blocksize);
	return e ? err_set(err, e, "out of memory") : 0;
}

static int scan(struct ext_scan *s, struct err *err)
{
	const struct ext2_super_block *super = s->lib->super;
	int e = check_state(super, err);

	if (e)
		return e;
	s->block_count = ext2fs_blocks_count(s->lib->super);
	s->cluster_blocks = (uint32_t)EXT2FS_CLUSTER_RATIO(s->lib);
	if (super->s_clusters_per_group == 0 || super->s_clusters_per_group % 8 ||
	    super->s_clusters_per_group / 8 > s->lib->blocksize || s->cluster_blocks == 0 ||
	    (uint64_t)super->s_clusters_per_group * s->cluster_blocks != super->s_blocks_per_group)
		return err_set(err, -EUCLEAN, "its superblock is damaged (size of groups): " FSCK);
	/* Else all groups would be taken for their neighbours by one block, which the counts do not show. */
	if (super->s_first_data_block != (s->lib->blocksize == 1024 && s->cluster_blocks == 1))
		return err_set(err, -EUCLEAN, "its superblock is damaged (first block): " FSCK);
	s->used = malloc(s->lib->blocksize);
	if (!s->used)
		return err_set(err, -ENOMEM, "out of memory");
	e = metadata_find(s, err);
	if (!e && !ext2fs_has_feature_metadata_csum(s->lib->super))
		e = own_files(s, err);
	for (dgrp_t group = 0; group < s->lib->group_desc_count && !e; group++)
		e = scan_group(s, group, err);
	return e;
}

int unused_ext(const struct volume *volume, struct unused_list *ret, const char **type, struct err *err)
{
	struct ext_scan s = {.volume = volume, .list = ret};
	errcode_t code;
	int e = check_size(volume, err);

	if (e)
		return e;
	initialize_ext2_error_table();
	e = ext_io_new(volume, &s.io);
	if (e)
		return err_set(err, e, "out of memory");
	/* With all checks that the library has; a backup superblock may be out of date. */
	code = ext2fs_open2("vhd", NULL, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP | EXT2_FLAG_MASTER_SB_ONLY, 0, 0,
	                    ext_io_manager(s.io), &s.lib);
	if (code == EXT2_ET_UNSUPP_FEATURE || code == EXT2_ET_RO_UNSUPP_FEATURE) {
		e = err_set(err, -EUCLEAN, "it uses features that are not known here");
	} else if (code) {
		e = err_set(err, ext_errno(code), "it cannot be read (%s): " FSCK, error_message(code));
	} else {
		*type = ext2fs_has_feature_extents(s.lib->super)   ? "ext4"
		        : ext2fs_has_feature_journal(s.lib->super) ? "ext3"
		                                                   : "ext2";
		e = scan(&s, err);
		ext2fs_free(s.lib);
	}
	free(s.used);
	free(s.owned);
	free(s.metadata);
	ext_io_free(s.io);
	return e;
}
