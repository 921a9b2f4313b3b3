/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One block of a folder: records that fill it exactly, each with room behind its name. With metadata checksums the last
 * 12 bytes are a false record that holds the checksum (the library computes it when the block is written).
 */

#include "mountd/ext.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

#define HEAD 8u /* bytes of a record before the name */

/* Where the records end. */
static uint32_t records_end(const struct ext *ext, const uint8_t *block)
{
	if (ext2fs_has_feature_metadata_csum(ext->lib->super) &&
	    ext2fs_dirent_has_tail(ext->lib, (struct ext2_dir_entry *)block))
		return ext->block_size - (uint32_t)sizeof(struct ext2_dir_entry_tail);
	return ext->block_size;
}

uint32_t dirent_size(size_t name_length)
{
	return (HEAD + (uint32_t)name_length + 3) & ~3u;
}

/* 64 KiB does not fit into 16 bits: the two lowest hold what is missing. */
static uint32_t length_get(const struct ext *ext, const uint8_t *record)
{
	uint32_t raw = (uint32_t)record[4] | (uint32_t)record[5] << 8;

	if (ext->block_size < 65536)
		return raw;
	if (raw == 65535 || raw == 0)
		return ext->block_size;
	return (raw & 65532) | (raw & 3) << 16;
}

static void length_set(uint8_t *record, uint32_t length)
{
	uint32_t raw = length < 65536 ? length : 65535;

	record[4] = (uint8_t)raw;
	record[5] = (uint8_t)(raw >> 8);
}

static uint8_t type_of(const struct ext *ext, mode_t mode)
{
	static const uint8_t types[16] = {
		[S_IFREG >> 12] = EXT2_FT_REG_FILE, [S_IFDIR >> 12] = EXT2_FT_DIR,   [S_IFCHR >> 12] = EXT2_FT_CHRDEV,
		[S_IFBLK >> 12] = EXT2_FT_BLKDEV,   [S_IFIFO >> 12] = EXT2_FT_FIFO,  [S_IFSOCK >> 12] = EXT2_FT_SOCK,
		[S_IFLNK >> 12] = EXT2_FT_SYMLINK,
	};

	return ext2fs_has_feature_filetype(ext->lib->super) ? types[mode >> 12 & 15] : 0;
}

mode_t dirent_mode(uint8_t file_type)
{
	static const mode_t modes[] = {
		[EXT2_FT_REG_FILE] = S_IFREG, [EXT2_FT_DIR] = S_IFDIR,   [EXT2_FT_CHRDEV] = S_IFCHR,
		[EXT2_FT_BLKDEV] = S_IFBLK,   [EXT2_FT_FIFO] = S_IFIFO, [EXT2_FT_SOCK] = S_IFSOCK,
		[EXT2_FT_SYMLINK] = S_IFLNK,
	};

	return file_type < sizeof(modes) / sizeof(modes[0]) ? modes[file_type] : 0;
}

int dirent_at(const struct ext *ext, const uint8_t *block, uint32_t at, struct dirent_view *ret)
{
	uint32_t end = records_end(ext, block);
	const uint8_t *r = block + at;

	if (at == end)
		return 0;
	if (at > end || end - at < HEAD)
		return -EUCLEAN;
	ret->at = at;
	ret->length = length_get(ext, r);
	ret->ino = (uint32_t)r[0] | (uint32_t)r[1] << 8 | (uint32_t)r[2] << 16 | (uint32_t)r[3] << 24;
	ret->name_length = r[6];
	ret->file_type = ext2fs_has_feature_filetype(ext->lib->super) ? r[7] : 0;
	ret->name = (const char *)r + HEAD;
	if (ret->length < HEAD + 4 || ret->length % 4 || ret->length > end - at)
		return -EUCLEAN;
	if (ret->ino && (ret->name_length == 0 || HEAD + ret->name_length > ret->length))
		return -EUCLEAN;
	return 1;
}

static uint32_t used_bytes(const struct dirent_view *v)
{
	return v->ino ? dirent_size(v->name_length) : 0;
}

uint32_t dirblock_room(const struct ext *ext, const uint8_t *block)
{
	struct dirent_view v;
	uint32_t room = 0;

	for (uint32_t at = 0; dirent_at(ext, block, at, &v) > 0; at += v.length)
		if (v.length - used_bytes(&v) > room && v.length >= used_bytes(&v))
			room = v.length - used_bytes(&v);
	return room;
}

static void record_write(const struct ext *ext, uint8_t *r, const char *name, ext2_ino_t ino, mode_t mode)
{
	size_t length = strlen(name);

	r[0] = (uint8_t)ino;
	r[1] = (uint8_t)(ino >> 8);
	r[2] = (uint8_t)(ino >> 16);
	r[3] = (uint8_t)(ino >> 24);
	r[6] = (uint8_t)length;
	r[7] = type_of(ext, mode);
	memcpy(r + HEAD, name, length);
}

int dirblock_insert(const struct ext *ext, uint8_t *block, const char *name, ext2_ino_t ino, mode_t mode,
                    uint32_t *ret_at)
{
	uint32_t need = dirent_size(strlen(name));
	struct dirent_view v;
	int e;

	for (uint32_t at = 0; (e = dirent_at(ext, block, at, &v)) > 0; at += v.length) {
		uint32_t used = used_bytes(&v);

		if (v.length < used || v.length - used < need)
			continue;
		if (used) {
			length_set(block + at, used);
			length_set(block + at + used, v.length - used);
		}
		record_write(ext, block + at + used, name, ino, mode);
		*ret_at = at + used;
		return 0;
	}
	return e < 0 ? e : -ENOSPC;
}

int dirblock_remove(const struct ext *ext, uint8_t *block, uint32_t target)
{
	struct dirent_view v;
	uint32_t before = UINT32_MAX, before_length = 0;
	int e;

	for (uint32_t at = 0; (e = dirent_at(ext, block, at, &v)) > 0; at += v.length) {
		if (at == target) {
			if (before == UINT32_MAX)
				memset(block + at, 0, 4);
			else
				length_set(block + before, before_length + v.length);
			return 0;
		}
		before = at;
		before_length = v.length;
	}
	return e < 0 ? e : -ENOENT;
}

void dirblock_set(const struct ext *ext, uint8_t *block, uint32_t at, ext2_ino_t ino, mode_t mode)
{
	uint8_t *r = block + at;

	r[0] = (uint8_t)ino;
	r[1] = (uint8_t)(ino >> 8);
	r[2] = (uint8_t)(ino >> 16);
	r[3] = (uint8_t)(ino >> 24);
	r[7] = type_of(ext, mode);
}

void dirblock_clear(const struct ext *ext, uint8_t *block)
{
	uint32_t end = ext->block_size;

	memset(block, 0, ext->block_size);
	if (ext2fs_has_feature_metadata_csum(ext->lib->super)) {
		end -= (uint32_t)sizeof(struct ext2_dir_entry_tail);
		ext2fs_initialize_dirent_tail(ext->lib, EXT2_DIRENT_TAIL(block, ext->block_size));
	}
	length_set(block, end);
}
