/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What is done to names: lookup, create, link, unlink, rename, symbolic links. */

#include "mountd/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LINKS_MAX 65000u
#define DEPTH_MAX 100000u /* folders between one and the root; more is a loop */

/* The inode that a name leads to, with a pin. */
static int name_get(struct ext *ext, struct inode *dir, const char *name, struct inode **ret)
{
	ext2_ino_t ino;
	int e = dir_find(ext, dir, name, &ino);

	return e ? e : inode_get(ext, ino, ret);
}

int ext_lookup(struct fs *fs, uint64_t folder, const char *name, struct fs_entry *ret)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode;
	int e;

	pthread_mutex_lock(&ext->lock);
	e = name_get(ext, inode_known(ext, folder), name, &inode);
	if (!e) {
		inode_entry(ext, inode, ret);
		inode_put(ext, inode);
	}
	pthread_mutex_unlock(&ext->lock);
	return e;
}

/* Whether names in a folder may change. */
static int folder_check(struct inode *dir)
{
	const struct ext2_inode *base = inode_base(dir);

	if (!LINUX_S_ISDIR(base->i_mode))
		return -ENOTDIR;
	if (base->i_links_count == 0)
		return -ENOENT;
	return base->i_flags & EXT2_IMMUTABLE_FL ? -EPERM : 0;
}

static bool links_are_counted(struct inode *dir)
{
	return inode_base(dir)->i_links_count != 1;
}

/* 0 or -EMLINK: whether a folder can get one more subfolder. */
static int folder_can_grow(struct ext *ext, struct inode *dir)
{
	return links_are_counted(dir) && inode_base(dir)->i_links_count >= LINKS_MAX &&
	       !ext2fs_has_feature_dir_nlink(ext->lib->super) ? -EMLINK : 0;
}

static void folder_add_link(struct ext *ext, struct inode *dir)
{
	struct ext2_inode *base = inode_base(dir);

	/* 1 says "many". */
	if (links_are_counted(dir))
		base->i_links_count = base->i_links_count >= LINKS_MAX ? 1 : base->i_links_count + 1;
	inode_dirty(ext, dir);
}

static void folder_drop_link(struct ext *ext, struct inode *dir)
{
	struct ext2_inode *base = inode_base(dir);

	if (base->i_links_count > 2)
		base->i_links_count--;
	inode_dirty(ext, dir);
}

static int symlink_init(struct ext *ext, struct inode *inode, const char *target)
{
	struct ext2_inode *base = inode_base(inode);
	size_t length = strlen(target);
	uint64_t block;
	uint8_t *content;
	errcode_t code;
	int64_t n;
	int e;

	if (length >= ext->block_size)
		return -ENAMETOOLONG;
	if (length < sizeof(base->i_block)) {
		memcpy(base->i_block, target, length);
		inode_set_size(ext, inode, length);
		return 0;
	}
	content = calloc(1, ext->block_size);
	if (!content)
		return -ENOMEM;
	memcpy(content, target, length);
	n = alloc_blocks(ext, inode, ext2fs_find_inode_goal(ext->lib, inode->ino, base, 0), 1, &block);
	e = n < 0 ? (int)n : map_add(ext, inode, 0, block, 1);
	if (!e) {
		code = io_channel_write_blk64(ext->lib->io, block, 1, content);
		e = code ? ext_errno(code) : 0;
	}
	free(content);
	if (!e)
		inode_set_size(ext, inode, length);
	return e;
}

static int make(struct ext *ext, struct inode *dir, const char *name, const struct fs_new *what, struct inode **ret)
{
	struct inode *inode;
	ext2_ino_t ino;
	int e = folder_check(dir);

	if (!e)
		e = dir_find(ext, dir, name, &ino);
	if (e != -ENOENT)
		return e ? e : -EEXIST;
	e = S_ISDIR(what->mode) ? folder_can_grow(ext, dir) : 0;
	if (!e && inode_base(dir)->i_links_count == 0)
		e = -ENOENT;
	if (!e)
		e = inode_new(ext, dir, what, &inode);
	if (e)
		return e;
	if (S_ISDIR(what->mode))
		e = dir_init(ext, inode, dir->ino);
	else if (S_ISLNK(what->mode))
		e = symlink_init(ext, inode, what->target);
	if (!e)
		e = dir_add(ext, dir, name, inode->ino, what->mode);
	if (e) {
		inode_base(inode)->i_links_count = 0;
		inode_put(ext, inode);
		return e;
	}
	if (S_ISDIR(what->mode))
		folder_add_link(ext, dir);
	*ret = inode;
	return 0;
}

int ext_make(struct fs *fs, uint64_t folder, const char *name, const struct fs_new *what, struct fs_entry *ret)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode;
	int e;

	pthread_mutex_lock(&ext->lock);
	e = ext_begin_change(ext);
	if (!e)
		e = make(ext, inode_known(ext, folder), name, what, &inode);
	if (!e) {
		inode_entry(ext, inode, ret);
		inode_put(ext, inode);
	}
	pthread_mutex_unlock(&ext->lock);
	return e;
}

int ext_link(struct fs *fs, uint64_t node, uint64_t folder, const char *name, struct fs_entry *ret)
{
	struct ext *ext = ext_of(fs);
	struct inode *dir, *inode;
	struct ext2_inode *base;
	ext2_ino_t ino;
	int e;

	pthread_mutex_lock(&ext->lock);
	dir = inode_known(ext, folder);
	inode = inode_known(ext, node);
	base = inode_base(inode);
	e = ext_begin_change(ext);
	if (!e)
		e = folder_check(dir);
	if (!e && (LINUX_S_ISDIR(base->i_mode) || (base->i_flags & (EXT2_IMMUTABLE_FL | EXT2_APPEND_FL))))
		e = -EPERM;
	if (!e && base->i_links_count == 0)
		e = -ENOENT;
	if (!e && base->i_links_count >= LINKS_MAX)
		e = -EMLINK;
	if (!e) {
		e = dir_find(ext, dir, name, &ino);
		e = e == -ENOENT ? dir_add(ext, dir, name, inode->ino, base->i_mode) : e ? e : -EEXIST;
	}
	if (!e) {
		base->i_links_count++;
		inode_touch(ext, inode, false, true);
		inode_entry(ext, inode, ret);
	}
	pthread_mutex_unlock(&ext->lock);
	return e;
}

static bool name_is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Gives a pin back, and with it the space of a file that nobody needs any more. Without the lock. */
static void put_and_reap(struct ext *ext, struct inode *inode)
{
	if (inode_base(inode)->i_links_count == 0)
		inode_reap(ext, inode);
	pthread_mutex_lock(&ext->lock);
	inode_put(ext, inode);
	pthread_mutex_unlock(&ext->lock);
}

static int unlink_inode(struct ext *ext, struct inode *dir, const char *name, bool is_folder, struct inode *inode)
{
	const struct ext2_inode *base = inode_base(inode);
	bool folder = LINUX_S_ISDIR(base->i_mode);
	int e = 0;

	if (is_folder != folder)
		e = folder ? -EISDIR : -ENOTDIR;
	if (!e && (base->i_flags & (EXT2_IMMUTABLE_FL | EXT2_APPEND_FL)))
		e = -EPERM;
	if (!e && folder) {
		e = dir_is_empty(ext, inode);
		e = e > 0 ? 0 : e == 0 ? -ENOTEMPTY : e;
	}
	if (!e)
		e = dir_remove(ext, dir, name);
	if (e)
		return e;
	if (folder)
		folder_drop_link(ext, dir);
	return inode_drop_link(ext, inode, folder);
}

int ext_unlink(struct fs *fs, uint64_t folder, const char *name, bool is_folder)
{
	struct ext *ext = ext_of(fs);
	struct inode *dir, *inode = NULL;
	int e;

	if (name_is_dots(name))
		return -EINVAL;
	pthread_mutex_lock(&ext->lock);
	dir = inode_known(ext, folder);
	e = ext_begin_change(ext);
	if (!e)
		e = folder_check(dir);
	if (!e)
		e = name_get(ext, dir, name, &inode);
	if (!e)
		e = unlink_inode(ext, dir, name, is_folder, inode);
	pthread_mutex_unlock(&ext->lock);
	if (inode)
		put_and_reap(ext, inode);
	return e;
}

/* 1: `dir` is `top` or lies below it. */
static int folder_is_below(struct ext *ext, struct inode *dir, struct inode *top)
{
	struct inode *at = dir;
	int result = 0;

	at->pins++;
	for (unsigned depth = 0; at->ino != EXT2_ROOT_INO; depth++) {
		struct inode *up;
		int e;

		if (at == top) {
			result = 1;
			break;
		}
		e = depth > DEPTH_MAX ? -EUCLEAN : name_get(ext, at, "..", &up);
		if (e) {
			result = e;
			break;
		}
		inode_put(ext, at);
		at = up;
	}
	inode_put(ext, at);
	return result;
}

struct renaming {
	struct inode *from, *to; /* folders */
	const char *name, *new_name;
	struct inode *what;
	struct inode *over; /* what has the new name already, or NULL */
};

static int rename_check(struct ext *ext, const struct renaming *r)
{
	bool folder = LINUX_S_ISDIR(inode_base(r->what)->i_mode);
	int e = 0;

	if ((inode_base(r->what)->i_flags | (r->over ? inode_base(r->over)->i_flags : 0)) &
	    (EXT2_IMMUTABLE_FL | EXT2_APPEND_FL))
		return -EPERM;
	if (r->over) {
		bool over_folder = LINUX_S_ISDIR(inode_base(r->over)->i_mode);

		if (folder != over_folder)
			return folder ? -ENOTDIR : -EISDIR;
		if (folder)
			e = dir_is_empty(ext, r->over);
		if (folder && e <= 0)
			return e == 0 ? -ENOTEMPTY : e;
	}
	if (folder && r->from != r->to) {
		e = folder_is_below(ext, r->to, r->what);
		if (e)
			return e > 0 ? -EINVAL : e;
		if (!r->over)
			return folder_can_grow(ext, r->to);
	}
	return 0;
}

static int rename_do(struct ext *ext, const struct renaming *r)
{
	bool folder = LINUX_S_ISDIR(inode_base(r->what)->i_mode);
	mode_t mode = inode_base(r->what)->i_mode;
	int e;

	if (r->over)
		e = dir_replace(ext, r->to, r->new_name, r->what->ino, mode);
	else
		e = dir_add(ext, r->to, r->new_name, r->what->ino, mode);
	if (!e)
		e = dir_remove(ext, r->from, r->name);
	if (!e && folder && r->from != r->to)
		e = dir_replace(ext, r->what, "..", r->to->ino, S_IFDIR);
	if (e)
		return e;
	if (folder && r->from != r->to) {
		folder_drop_link(ext, r->from);
		folder_add_link(ext, r->to);
	}
	if (r->over) {
		if (folder)
			folder_drop_link(ext, r->to);
		e = inode_drop_link(ext, r->over, folder);
	}
	inode_touch(ext, r->what, false, true);
	return e;
}

int ext_rename(struct fs *fs, uint64_t folder, const char *name, uint64_t new_folder, const char *new_name,
               unsigned flags)
{
	struct ext *ext = ext_of(fs);
	struct renaming r = {.name = name, .new_name = new_name};
	int e;

	if (name_is_dots(name) || name_is_dots(new_name) || (flags & ~FS_RENAME_NOREPLACE))
		return -EINVAL;
	pthread_mutex_lock(&ext->lock);
	r.from = inode_known(ext, folder);
	r.to = inode_known(ext, new_folder);
	e = ext_begin_change(ext);
	if (!e)
		e = folder_check(r.from);
	if (!e)
		e = folder_check(r.to);
	if (!e)
		e = name_get(ext, r.from, name, &r.what);
	if (!e) {
		e = name_get(ext, r.to, new_name, &r.over);
		if (e == -ENOENT)
			e = 0;
		else if (!e && (flags & FS_RENAME_NOREPLACE))
			e = -EEXIST;
	}
	if (!e && r.what != r.over) {
		e = rename_check(ext, &r);
		if (!e)
			e = rename_do(ext, &r);
	}
	if (r.what)
		inode_put(ext, r.what);
	pthread_mutex_unlock(&ext->lock);
	if (r.over)
		put_and_reap(ext, r.over);
	return e;
}

int ext_readlink(struct fs *fs, uint64_t node, char **ret)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode;
	struct ext2_inode *base;
	uint64_t length;
	char *text;
	int e = 0;

	text = calloc(1, ext->block_size + 1);
	if (!text)
		return -ENOMEM;
	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	base = inode_base(inode);
	length = inode_bytes(inode);
	if (!LINUX_S_ISLNK(base->i_mode)) {
		e = -EINVAL;
	} else if (base->i_flags & EXT4_ENCRYPT_FL) {
		e = -ENOKEY;
	} else if (length == 0 || length > ext->block_size) {
		e = -EUCLEAN;
	} else if (base->i_flags & EXT4_INLINE_DATA_FL) {
		size_t size;
		errcode_t code = ext2fs_inline_data_get(ext->lib, inode->ino, base, text, &size);

		e = code ? ext_errno(code) : 0;
	} else if (ext2fs_is_fast_symlink(base)) {
		if (length > sizeof(base->i_block))
			e = -EUCLEAN;
		else
			memcpy(text, base->i_block, length);
	} else {
		const uint8_t *content;
		struct run run;

		e = map_find(ext, inode, true, 0, 1, &run);
		if (!e && !run.physical)
			e = -EUCLEAN;
		if (!e)
			e = ext_io_peek(ext->io, run.physical, &content);
		if (!e)
			memcpy(text, content, length);
	}
	pthread_mutex_unlock(&ext->lock);
	if (e) {
		free(text);
		return e;
	}
	*ret = text;
	return 0;
}
