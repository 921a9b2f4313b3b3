/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Extended attributes, by the library, which works on the inode table itself: our inode goes there first. */

#include "mountd/ext.h"

#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "common/bytes.h"

#define ACL_ACCESS "system.posix_acl_access"

static int name_check(const char *name)
{
	static const char *const spaces[] = {"user.", "trusted.", "security."};

	for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
		if (strncmp(name, spaces[i], strlen(spaces[i])) == 0 && name[strlen(spaces[i])])
			return strlen(name) > 255 ? -ERANGE : 0;
	if (strcmp(name, ACL_ACCESS) == 0 || strcmp(name, "system.posix_acl_default") == 0)
		return 0;
	return -EOPNOTSUPP;
}

/* With the lock; ext->passthrough is set until attributes_close. */
static int attributes_open(struct ext *ext, struct inode *inode, struct ext2_xattr_handle **ret)
{
	struct ext2_xattr_handle *handle;
	errcode_t code;
	int e = inode->dirty ? inode_write(ext, inode) : 0;

	if (e)
		return e;
	ext->passthrough = true;
	code = ext2fs_xattrs_open(ext->lib, inode->ino, &handle);
	if (!code) {
		code = ext2fs_xattrs_read(handle);
		if (code)
			ext2fs_xattrs_close(&handle);
	}
	if (code) {
		ext->passthrough = false;
		return ext_errno(code);
	}
	*ret = handle;
	return 0;
}

static void attributes_close(struct ext *ext, struct ext2_xattr_handle *handle)
{
	ext2fs_xattrs_close(&handle);
	ext->passthrough = false;
}

/* 0 or -ENODATA; `ret` is freed with ext2fs_free_mem. */
static int attribute_get(struct ext2_xattr_handle *handle, const char *name, void **ret, size_t *ret_size)
{
	errcode_t code = ext2fs_xattr_get(handle, name, ret, ret_size);

	return code == EXT2_ET_EA_KEY_NOT_FOUND ? -ENODATA : code ? ext_errno(code) : 0;
}

/* The kernel asks before each write; most files have none, and that can be seen without the library. */
static bool has_attributes(const struct ext *ext, struct inode *inode)
{
	uint32_t magic;
	size_t at;

	if (inode_base(inode)->i_file_acl || inode_base(inode)->osd2.linux2.l_i_file_acl_high)
		return true;
	if (ext->inode_size <= EXT2_GOOD_OLD_INODE_SIZE)
		return false;
	at = EXT2_GOOD_OLD_INODE_SIZE + (size_t)inode->raw->i_extra_isize;
	if (at + sizeof(magic) > ext->inode_size)
		return false;
	memcpy(&magic, (const uint8_t *)inode->raw + at, sizeof(magic));
	return magic != 0;
}

ssize_t ext_getxattr(struct fs *fs, uint64_t node, const char *name, void *value, size_t size)
{
	struct ext *ext = ext_of(fs);
	struct ext2_xattr_handle *handle;
	void *found = NULL;
	size_t length = 0;
	ssize_t result = name_check(name);
	struct inode *inode;

	if (result)
		return result;
	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	if (!has_attributes(ext, inode)) {
		pthread_mutex_unlock(&ext->lock);
		return -ENODATA;
	}
	result = attributes_open(ext, inode, &handle);
	if (!result) {
		result = attribute_get(handle, name, &found, &length);
		attributes_close(ext, handle);
	}
	pthread_mutex_unlock(&ext->lock);
	if (result)
		return result;
	result = (ssize_t)length;
	if (size && size < length)
		result = -ERANGE;
	else if (size)
		memcpy(value, found, length);
	ext2fs_free_mem(&found);
	return result;
}

struct listing {
	char *names;
	size_t size, used;
	bool full;
};

static int list_one(char *name, char *value, size_t length, void *user)
{
	struct listing *l = user;
	size_t n = strlen(name) + 1;

	(void)value;
	(void)length;
	if (name_check(name))
		return 0;
	if (l->size && l->used + n > l->size)
		l->full = true;
	else if (l->size)
		memcpy(l->names + l->used, name, n);
	l->used += n;
	return 0;
}

ssize_t ext_listxattr(struct fs *fs, uint64_t node, char *names, size_t size)
{
	struct ext *ext = ext_of(fs);
	struct listing l = {.names = names, .size = size};
	struct ext2_xattr_handle *handle;
	int e;

	pthread_mutex_lock(&ext->lock);
	e = attributes_open(ext, inode_known(ext, node), &handle);
	if (!e) {
		errcode_t code = ext2fs_xattrs_iterate(handle, list_one, &l);

		e = code ? ext_errno(code) : 0;
		attributes_close(ext, handle);
	}
	pthread_mutex_unlock(&ext->lock);
	if (e)
		return e;
	return l.full ? -ERANGE : (ssize_t)l.used;
}

/* After a change, which may have come half the way: the inode table has what is true. */
static int attributes_end(struct ext *ext, struct inode *inode, struct ext2_xattr_handle *handle, int e)
{
	int f;

	attributes_close(ext, handle);
	f = inode_reload(ext, inode);
	return e ? e : f;
}

/* A list of permissions as getxattr gives it: a version, then entries. */
struct acl_entry {
	le16 tag, permissions;
	le32 id;
};

#define ACL_HEAD 4u /* bytes before the entries */
#define ACL_OWNER 0x01u
#define ACL_GROUP 0x04u
#define ACL_MASK 0x10u
#define ACL_OTHER 0x20u

/* The entry that stands for this part of the mode, or NULL. */
static struct acl_entry *acl_find(const void *acl, size_t size, unsigned tag)
{
	struct acl_entry *entries = (struct acl_entry *)((uintptr_t)acl + ACL_HEAD);

	for (size_t i = 0; size >= ACL_HEAD && i < (size - ACL_HEAD) / sizeof(*entries); i++)
		if (le16_get(entries[i].tag) == tag)
			return &entries[i];
	return NULL;
}

/* The mode's three parts are the entries of the owner, the mask (without one the group) and the others. */
static struct acl_entry *acl_part(const void *acl, size_t size, unsigned shift)
{
	struct acl_entry *mask = acl_find(acl, size, ACL_MASK);

	if (shift == 3)
		return mask ? mask : acl_find(acl, size, ACL_GROUP);
	return acl_find(acl, size, shift ? ACL_OWNER : ACL_OTHER);
}

static void acl_to_mode(struct inode *inode, const void *acl, size_t size)
{
	struct ext2_inode *base = inode_base(inode);

	for (unsigned shift = 0; shift <= 6; shift += 3) {
		const struct acl_entry *entry = acl_part(acl, size, shift);

		if (entry)
			base->i_mode = (uint16_t)((base->i_mode & ~(7u << shift)) |
			                          (le16_get(entry->permissions) & 7u) << shift);
	}
}

int acl_from_mode(struct ext *ext, struct inode *inode, mode_t mode)
{
	struct ext2_xattr_handle *handle;
	void *acl = NULL;
	size_t size;
	int e;

	if (!has_attributes(ext, inode))
		return 0;
	e = attributes_open(ext, inode, &handle);
	if (e)
		return e;
	e = attribute_get(handle, ACL_ACCESS, &acl, &size);
	for (unsigned shift = 0; !e && shift <= 6; shift += 3) {
		struct acl_entry *entry = acl_part(acl, size, shift);

		if (entry)
			entry->permissions = le16_make((uint16_t)(mode >> shift & 7));
	}
	if (!e)
		e = ext_errno(ext2fs_xattr_set(handle, ACL_ACCESS, acl, size));
	if (acl)
		ext2fs_free_mem(&acl);
	e = attributes_end(ext, inode, handle, e);
	return e == -ENODATA ? 0 : e;
}

/* `value` NULL: remove. */
static int attribute_change(struct fs *fs, uint64_t node, const char *name, const void *value, size_t size, int flags)
{
	struct ext *ext = ext_of(fs);
	struct ext2_xattr_handle *handle;
	struct inode *inode;
	errcode_t code;
	int e = name_check(name);

	if (e)
		return e;
	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	e = ext_begin_change(ext);
	if (!e) {
		inode_touch(ext, inode, false, true);
		e = attributes_open(ext, inode, &handle);
	}
	if (!e) {
		void *old = NULL;
		size_t old_size;

		e = attribute_get(handle, name, &old, &old_size);
		if (!e) {
			ext2fs_free_mem(&old);
			e = flags & XATTR_CREATE ? -EEXIST : 0;
		} else if (e == -ENODATA && value && !(flags & XATTR_REPLACE)) {
			e = 0;
		}
		if (!e) {
			code = value ? ext2fs_xattr_set(handle, name, value, size) : ext2fs_xattr_remove(handle, name);
			e = code == EXT2_ET_EA_NO_SPACE ? -ENOSPC : code ? ext_errno(code) : 0;
		}
		e = attributes_end(ext, inode, handle, e);
	}
	if (!e && value && strcmp(name, ACL_ACCESS) == 0)
		acl_to_mode(inode, value, size);
	pthread_mutex_unlock(&ext->lock);
	return e;
}

int ext_setxattr(struct fs *fs, uint64_t node, const char *name, const void *value, size_t size, int flags)
{
	return attribute_change(fs, node, name, value ? value : "", size, flags);
}

int ext_removexattr(struct fs *fs, uint64_t node, const char *name)
{
	return attribute_change(fs, node, name, NULL, 0, 0);
}
