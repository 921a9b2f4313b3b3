/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Folders. While one is in use its names are kept in memory, as a hash table of places, with the room that each block
 * has: so neither a lookup nor a new entry reads through the folder. An entry never moves, and the cookie of readdir is
 * its place, so entries that come and go meanwhile make it neither skip nor repeat one.
 *
 * The on-disk hash index of a large folder is given up at the first change (the flag cleared, its blocks made ordinary
 * empty ones), which is legal: others search linearly then, and `e2fsck -D` makes a new one.
 */

#include "mountd/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

#define NAMES_MAX 4000000u /* in all caches; beyond it those of other folders go */

struct place {
	uint32_t hash;
	uint32_t at; /* in the folder, in units of 4 bytes; PLACE_FREE or PLACE_GONE */
};

#define PLACE_FREE UINT32_MAX
#define PLACE_GONE (UINT32_MAX - 1)

struct ext_dir {
	struct ext_dir *next, **link; /* in ext->dirs */
	struct inode *inode;
	struct place *places;
	uint32_t size; /* of `places`, a power of two */
	uint32_t used; /* of them, gone ones too */
	uint32_t names;
	uint16_t *room; /* by block: the longest record that fits, in units of 4 bytes */
	uint32_t blocks;
};

static uint32_t name_hash(const char *name, size_t length)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < length; i++)
		h = (h ^ (uint8_t)name[i]) * UINT64_C(0x100000001b3);
	return (uint32_t)(h ^ h >> 32);
}

static uint32_t dir_blocks(struct ext *ext, struct inode *inode)
{
	uint64_t n = inode_bytes(inode) / ext->block_size;

	return n > UINT32_MAX / (ext->block_size / 4) ? 0 : (uint32_t)n;
}

static int block_number(struct ext *ext, struct inode *inode, uint32_t logical, uint64_t *ret)
{
	struct run run;
	int e = map_find(ext, inode, true, logical, 1, &run);

	if (!e)
		*ret = run.physical;
	return e;
}

/* Borrowed until the next call for the cache; NULL for a hole. */
static int block_peek(struct ext *ext, struct inode *inode, uint32_t logical, const uint8_t **ret)
{
	uint64_t block;
	int e = block_number(ext, inode, logical, &block);

	*ret = NULL;
	return e || !block ? e : ext_io_peek(ext->io, block, ret);
}

/* A copy with its checksum verified, allocated; NULL for a hole. */
static int block_read(struct ext *ext, struct inode *inode, uint32_t logical, uint8_t **ret)
{
	errcode_t code;
	uint64_t block;
	uint8_t *copy;
	int e = block_number(ext, inode, logical, &block);

	*ret = NULL;
	if (e || !block)
		return e;
	copy = malloc(ext->block_size);
	if (!copy)
		return -ENOMEM;
	code = ext2fs_read_dir_block4(ext->lib, block, copy, 0, inode->ino);
	if (code) {
		free(copy);
		return ext_errno(code);
	}
	*ret = copy;
	return 0;
}

static int block_write(struct ext *ext, struct inode *inode, uint32_t logical, uint8_t *content)
{
	errcode_t code;
	uint64_t block;
	int e = block_number(ext, inode, logical, &block);

	if (e || !block)
		return e ? e : -EUCLEAN;
	code = ext2fs_write_dir_block4(ext->lib, block, content, 0, inode->ino);
	return code ? ext_errno(code) : 0;
}

void dir_done(struct ext *ext, struct inode *inode)
{
	struct ext_dir *d = inode->dir;

	if (!d)
		return;
	*d->link = d->next;
	if (d->next)
		d->next->link = d->link;
	ext->cached_names -= d->names;
	inode->dir = NULL;
	free(d->places);
	free(d->room);
	free(d);
}

static int places_resize(struct ext_dir *d, uint32_t size)
{
	struct place *old = d->places, *places = malloc(size * sizeof(*places));

	if (!places)
		return -ENOMEM;
	memset(places, 0xff, size * sizeof(*places));
	for (uint32_t i = 0; i < d->size; i++)
		if (old[i].at < PLACE_GONE) {
			uint32_t j = old[i].hash & (size - 1);

			while (places[j].at != PLACE_FREE)
				j = (j + 1) & (size - 1);
			places[j] = old[i];
		}
	free(old);
	d->places = places;
	d->size = size;
	d->used = d->names;
	return 0;
}

static int places_add(struct ext *ext, struct ext_dir *d, uint32_t hash, uint32_t at)
{
	uint32_t j;

	if ((d->used + 1) * 4ull > d->size * 3ull) {
		int e = places_resize(d, d->names * 2 < d->size / 2 ? d->size : d->size * 2);

		if (e)
			return e;
	}
	j = hash & (d->size - 1);
	while (d->places[j].at < PLACE_GONE)
		j = (j + 1) & (d->size - 1);
	if (d->places[j].at == PLACE_FREE)
		d->used++;
	d->places[j] = (struct place){hash, at};
	d->names++;
	ext->cached_names++;
	return 0;
}

static int dir_load_block(struct ext *ext, struct ext_dir *d, uint32_t logical)
{
	struct dirent_view v;
	uint8_t *block;
	int e = block_read(ext, d->inode, logical, &block);

	if (e || !block)
		return e;
	for (uint32_t at = 0; !e; at += v.length) {
		e = dirent_at(ext, block, at, &v);
		if (e == 0)
			break;
		if (e < 0)
			break;
		e = v.ino ? places_add(ext, d, name_hash(v.name, v.name_length),
		                       logical * (ext->block_size / 4) + at / 4) : 0;
	}
	d->room[logical] = (uint16_t)(dirblock_room(ext, block) / 4);
	free(block);
	return e;
}

static int dir_load(struct ext *ext, struct inode *inode)
{
	struct ext_dir *d;
	int e = 0;

	if (inode->dir)
		return 0;
	/* Any but this one; there are few, each of them large. */
	while (ext->dirs && ext->cached_names > NAMES_MAX)
		dir_done(ext, ext->dirs->inode);
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->inode = inode;
	d->next = ext->dirs;
	d->link = &ext->dirs;
	if (d->next)
		d->next->link = &d->next;
	ext->dirs = d;
	inode->dir = d;
	d->blocks = dir_blocks(ext, inode);
	d->room = calloc(d->blocks + 1, sizeof(*d->room));
	e = d->room ? places_resize(d, 16) : -ENOMEM;
	for (uint32_t i = 0; i < d->blocks && !e; i++)
		e = dir_load_block(ext, d, i);
	if (e)
		dir_done(ext, inode);
	return e;
}

/* The place of a name: 0 or -ENOENT or another error. */
static int dir_place(struct ext *ext, struct inode *inode, const char *name, uint32_t *ret_slot,
                     struct dirent_view *ret)
{
	size_t length = strlen(name);
	uint32_t hash = name_hash(name, length), per = ext->block_size / 4;
	struct ext_dir *d;
	int e;

	if (length > EXT2_NAME_LEN)
		return -ENAMETOOLONG;
	e = dir_load(ext, inode);
	if (e)
		return e;
	d = inode->dir;
	for (uint32_t j = hash & (d->size - 1); d->places[j].at != PLACE_FREE; j = (j + 1) & (d->size - 1)) {
		const uint8_t *block;

		if (d->places[j].at == PLACE_GONE || d->places[j].hash != hash)
			continue;
		e = block_peek(ext, inode, d->places[j].at / per, &block);
		if (e)
			return e;
		if (!block || dirent_at(ext, block, d->places[j].at % per * 4, ret) <= 0)
			return -EUCLEAN;
		if (ret->ino && ret->name_length == length && memcmp(ret->name, name, length) == 0) {
			*ret_slot = j;
			return 0;
		}
	}
	return -ENOENT;
}

int dir_find(struct ext *ext, struct inode *dir, const char *name, ext2_ino_t *ret)
{
	struct dirent_view v;
	uint32_t slot;
	int e;

	if (!LINUX_S_ISDIR(inode_base(dir)->i_mode))
		return -ENOTDIR;
	e = dir_place(ext, dir, name, &slot, &v);
	if (!e)
		*ret = v.ino;
	return e;
}

/* Makes the blocks of the on-disk index ordinary ones. */
static int index_drop(struct ext *ext, struct inode *inode)
{
	bool checksums = ext2fs_has_feature_metadata_csum(ext->lib->super);
	uint32_t blocks = dir_blocks(ext, inode);
	int e = 0;

	if (!(inode_base(inode)->i_flags & EXT2_INDEX_FL))
		return 0;
	/* Without checksums they are legal as they are: one record that spans what the index used. */
	for (uint32_t i = 0; checksums && i < blocks && !e; i++) {
		struct dirent_view dot, dotdot;
		uint8_t *block;

		e = block_read(ext, inode, i, &block);
		if (e || !block)
			continue;
		if (!ext2fs_dirent_has_tail(ext->lib, (struct ext2_dir_entry *)block)) {
			uint32_t at;

			if (i > 0) {
				dirblock_clear(ext, block);
			} else if (dirent_at(ext, block, 0, &dot) > 0 && dirent_at(ext, block, dot.length, &dotdot) > 0) {
				ext2_ino_t self = dot.ino, parent = dotdot.ino;

				dirblock_clear(ext, block);
				e = dirblock_insert(ext, block, ".", self, S_IFDIR, &at);
				if (!e)
					e = dirblock_insert(ext, block, "..", parent, S_IFDIR, &at);
			} else {
				e = -EUCLEAN;
			}
			/* The library looks at the flag to tell which kind of checksum a block has. */
			inode_base(inode)->i_flags &= ~(uint32_t)EXT2_INDEX_FL;
			if (!e)
				e = block_write(ext, inode, i, block);
			inode_base(inode)->i_flags |= EXT2_INDEX_FL;
		}
		free(block);
	}
	if (e)
		return e;
	inode_base(inode)->i_flags &= ~(uint32_t)EXT2_INDEX_FL;
	inode_dirty(ext, inode);
	dir_done(ext, inode);
	return dir_load(ext, inode);
}

static int dir_grow(struct ext *ext, struct inode *inode)
{
	struct ext_dir *d = inode->dir;
	uint32_t logical = d->blocks;
	struct run before;
	uint64_t block, goal;
	uint16_t *room;
	uint8_t *content;
	int64_t n;
	int e;

	if (logical + 1 >= UINT32_MAX / (ext->block_size / 4) - 1)
		return -ENOSPC;
	room = reallocarray(d->room, logical + 2, sizeof(*room));
	if (!room)
		return -ENOMEM;
	d->room = room;
	if (logical > 0 && map_find(ext, inode, true, logical - 1, 1, &before) == 0 && before.physical)
		goal = before.physical + 1;
	else
		goal = ext2fs_find_inode_goal(ext->lib, inode->ino, inode_base(inode), logical);
	content = malloc(ext->block_size);
	if (!content)
		return -ENOMEM;
	if (inode->batch > 16)
		inode->batch = 16;
	n = alloc_blocks(ext, inode, goal, 1, &block);
	if (n < 0) {
		free(content);
		return (int)n;
	}
	ext_io_forget(ext->io, block, 1);
	e = map_add(ext, inode, logical, block, 1);
	if (!e) {
		dirblock_clear(ext, content);
		e = block_write(ext, inode, logical, content);
	}
	if (!e) {
		inode_set_size(ext, inode, (uint64_t)(logical + 1) * ext->block_size);
		room[logical] = (uint16_t)(dirblock_room(ext, content) / 4);
		d->blocks++;
	}
	free(content);
	return e;
}

int dir_add(struct ext *ext, struct inode *dir, const char *name, ext2_ino_t ino, mode_t mode)
{
	size_t length = strlen(name);
	uint32_t need = dirent_size(length) / 4, at, i;
	struct ext_dir *d;
	uint8_t *block;
	int e;

	if (length > EXT2_NAME_LEN)
		return -ENAMETOOLONG;
	e = dir_load(ext, dir);
	if (!e)
		e = index_drop(ext, dir);
	if (e)
		return e;
	d = dir->dir;
	for (i = 0; i < d->blocks && d->room[i] < need; i++)
		;
	if (i == d->blocks) {
		e = dir_grow(ext, dir);
		if (e)
			return e;
	}
	e = block_read(ext, dir, i, &block);
	if (e || !block)
		return e ? e : -EUCLEAN;
	e = dirblock_insert(ext, block, name, ino, mode, &at);
	if (!e)
		e = places_add(ext, d, name_hash(name, length), i * (ext->block_size / 4) + at / 4);
	if (!e) {
		e = block_write(ext, dir, i, block);
		if (e)
			dir_done(ext, dir);
		else
			d->room[i] = (uint16_t)(dirblock_room(ext, block) / 4);
	}
	free(block);
	if (!e)
		inode_touch(ext, dir, true, true);
	return e;
}

int dir_remove(struct ext *ext, struct inode *dir, const char *name)
{
	struct dirent_view v;
	struct ext_dir *d;
	uint32_t slot, i;
	uint8_t *block;
	int e;

	e = dir_load(ext, dir);
	if (!e)
		e = index_drop(ext, dir);
	if (!e)
		e = dir_place(ext, dir, name, &slot, &v);
	if (e)
		return e;
	d = dir->dir;
	i = d->places[slot].at / (ext->block_size / 4);
	e = block_read(ext, dir, i, &block);
	if (e || !block)
		return e ? e : -EUCLEAN;
	e = dirblock_remove(ext, block, v.at);
	if (!e)
		e = block_write(ext, dir, i, block);
	if (!e) {
		d->places[slot].at = PLACE_GONE;
		d->names--;
		ext->cached_names--;
		d->room[i] = (uint16_t)(dirblock_room(ext, block) / 4);
		inode_touch(ext, dir, true, true);
	}
	free(block);
	return e;
}

int dir_replace(struct ext *ext, struct inode *dir, const char *name, ext2_ino_t ino, mode_t mode)
{
	struct dirent_view v;
	uint32_t slot, i;
	uint8_t *block;
	int e;

	e = dir_load(ext, dir);
	if (!e)
		e = index_drop(ext, dir);
	if (!e)
		e = dir_place(ext, dir, name, &slot, &v);
	if (e)
		return e;
	i = dir->dir->places[slot].at / (ext->block_size / 4);
	e = block_read(ext, dir, i, &block);
	if (e || !block)
		return e ? e : -EUCLEAN;
	dirblock_set(ext, block, v.at, ino, mode);
	e = block_write(ext, dir, i, block);
	free(block);
	if (!e)
		inode_touch(ext, dir, true, true);
	return e;
}

int dir_is_empty(struct ext *ext, struct inode *dir)
{
	uint32_t names = 0, slot;
	struct dirent_view v;
	int e = dir_load(ext, dir);

	if (e)
		return e;
	names += dir_place(ext, dir, ".", &slot, &v) == 0;
	names += dir_place(ext, dir, "..", &slot, &v) == 0;
	return dir->dir->names == names;
}

int dir_init(struct ext *ext, struct inode *dir, ext2_ino_t parent)
{
	int e = dir_load(ext, dir);

	if (!e)
		e = dir_grow(ext, dir);
	if (!e)
		e = dir_add(ext, dir, ".", dir->ino, S_IFDIR);
	if (!e)
		e = dir_add(ext, dir, "..", parent, S_IFDIR);
	alloc_release(ext, dir);
	return e;
}

static bool name_is_sane(const struct dirent_view *v)
{
	return !memchr(v->name, '/', v->name_length) && !memchr(v->name, 0, v->name_length);
}

int ext_readdir(struct fs *fs, uint64_t node, uint64_t cookie, fs_emit *emit, void *user)
{
	struct ext *ext = ext_of(fs);
	uint32_t bs = ext->block_size;
	struct inode *inode;
	uint64_t position = cookie;
	bool full = false;
	int e = 0;

	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	if (!LINUX_S_ISDIR(inode_base(inode)->i_mode))
		e = -ENOTDIR;
	else if (inode_base(inode)->i_flags & (EXT4_ENCRYPT_FL | EXT4_INLINE_DATA_FL))
		e = -EOPNOTSUPP;
	for (uint64_t i = position / bs; !e && !full && i < dir_blocks(ext, inode); i++) {
		struct dirent_view v;
		uint8_t *block;

		e = block_read(ext, inode, (uint32_t)i, &block);
		if (e || !block)
			continue;
		for (uint32_t at = 0; !full && (e = dirent_at(ext, block, at, &v)) > 0; at += v.length) {
			char name[EXT2_NAME_LEN + 1];

			if (i * bs + at < position || !v.ino || !name_is_sane(&v))
				continue;
			memcpy(name, v.name, v.name_length);
			name[v.name_length] = 0;
			full = !emit(user, name, v.ino == EXT2_ROOT_INO ? FS_ROOT : v.ino, dirent_mode(v.file_type),
			             i * bs + at + v.length);
		}
		if (e > 0)
			e = 0;
		free(block);
	}
	pthread_mutex_unlock(&ext->lock);
	return e;
}
