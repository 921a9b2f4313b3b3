/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/children.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/parent-search.h"

struct search {
	const struct layer *layer;
	struct stat self;
	char *folder;
	int folder_fd;
	struct children *found;
};

static bool read_all(int fd, void *buffer, size_t length, uint64_t offset)
{
	return pread(fd, buffer, length, (off_t)offset) == (ssize_t)length;
}

/* The footer that counts, of a disk with a header: the one at the end, else the copy. */
static bool footer_read(int fd, const struct stat *st, struct footer *ret)
{
	static const unsigned lengths[] = {VHD_SECTOR, VHD_SECTOR - 1};
	uint64_t size = (uint64_t)st->st_size;
	struct footer_disk disk;

	for (unsigned i = 0; i < 2; i++) {
		memset(&disk, 0, sizeof(disk));
		if (size >= lengths[i] && read_all(fd, &disk, lengths[i], size - lengths[i]) &&
		    footer_decode(&disk, false, ret, NULL) == 0)
			return true;
	}
	return read_all(fd, &disk, sizeof(disk), 0) && footer_decode(&disk, false, ret, NULL) == 0 &&
	       ret->type != VHD_FIXED;
}

static bool header_read(int fd, const struct footer *footer, struct header *ret)
{
	struct header_disk disk;

	return footer->data_offset <= INT64_MAX - sizeof(disk) && read_all(fd, &disk, sizeof(disk), footer->data_offset) &&
	       header_decode(&disk, false, ret, NULL) == 0;
}

enum lead {
	TO_NOTHING,
	TO_SELF,
	TO_ANOTHER, /* file with the same Unique Id: a copy, or what it was merged into */
};

static enum lead lead_of(const struct search *s, const char *path)
{
	struct footer footer;
	struct stat st;
	bool same;
	int fd;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return TO_NOTHING;
	if (st.st_dev == s->self.st_dev && st.st_ino == s->self.st_ino)
		return TO_SELF;
	fd = s->layer->raw ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return TO_NOTHING;
	same = footer_read(fd, &st, &footer) && !memcmp(footer.uuid, s->layer->footer.uuid, sizeof(footer.uuid));
	close(fd);
	return same ? TO_ANOTHER : TO_NOTHING;
}

/* Which file the child's locators lead to: the first that could be its parent. */
static enum lead child_leads(const struct search *s, const char *name)
{
	struct parent_candidates candidates;
	enum lead lead = TO_NOTHING;
	struct layer *child;
	struct store *store;
	char *path;
	int fd;

	if (asprintf(&path, "%s/%s", strcmp(s->folder, "/") ? s->folder : "", name) < 0)
		return TO_NOTHING;
	fd = openat(s->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0 && store_file_open_take(fd, path, 0, &store, NULL) == 0 &&
	    layer_open_take(store, path, NULL, &child, NULL) == 0) {
		if (parent_candidates_find(child, s->folder, &candidates, NULL, NULL) == 0) {
			for (unsigned i = 0; i < candidates.count && lead == TO_NOTHING; i++)
				lead = lead_of(s, candidates.paths[i]);
			parent_candidates_done(&candidates);
		}
		layer_free(child);
	}
	free(path);
	return lead;
}

enum kinship {
	STRANGER,
	CHILD,
	MERGED_CHILD,
};

static enum kinship kinship_of(const struct search *s, const char *name)
{
	static const uint8_t null[16];
	struct footer footer;
	struct header header;
	struct stat st;
	bool differencing;
	int fd;

	/* Before the open: a FIFO or a device is not to notice. */
	if (fstatat(s->folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
	    (st.st_dev == s->self.st_dev && st.st_ino == s->self.st_ino))
		return STRANGER;
	fd = openat(s->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return STRANGER;
	differencing = footer_read(fd, &st, &footer) && footer.type == VHD_DIFFERENCING && header_read(fd, &footer, &header);
	close(fd);
	if (!differencing)
		return STRANGER;
	if (s->layer->raw)
		return !memcmp(header.parent_uuid, null, sizeof(null)) && child_leads(s, name) == TO_SELF ? CHILD : STRANGER;
	if (!memcmp(header.parent_uuid, s->layer->footer.uuid, sizeof(null)))
		return child_leads(s, name) == TO_ANOTHER ? STRANGER : CHILD;
	return !memcmp(footer.uuid, s->layer->footer.uuid, sizeof(null)) && child_leads(s, name) == TO_SELF ? MERGED_CHILD
	                                                                                                   : STRANGER;
}

static int child_add(struct search *s, const char *name, bool merged)
{
	struct children *c = s->found;
	char **paths = reallocarray(c->paths, c->count + 1, sizeof(*paths));
	bool *all_merged = reallocarray(c->merged, c->count + 1, sizeof(*all_merged));

	if (paths)
		c->paths = paths;
	if (all_merged)
		c->merged = all_merged;
	if (!paths || !all_merged)
		return -ENOMEM;
	all_merged[c->count] = merged;
	if (asprintf(&paths[c->count], "%s/%s", strcmp(s->folder, "/") ? s->folder : "", name) < 0)
		return -ENOMEM;
	c->count++;
	return 0;
}

static int folder_search(struct search *s)
{
	struct dirent *entry;
	DIR *dir;
	int r = 0;

	if (fstat(s->layer->store->file.fd, &s->self) < 0)
		return -errno;
	dir = opendir(s->folder);
	if (!dir)
		return -errno;
	s->folder_fd = dirfd(dir);
	for (errno = 0; r == 0 && (entry = readdir(dir)); errno = 0) {
		enum kinship kinship = entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN ? kinship_of(s, entry->d_name)
		                                                                             : STRANGER;

		if (kinship != STRANGER)
			r = child_add(s, entry->d_name, kinship == MERGED_CHILD);
	}
	if (r == 0)
		r = -errno;
	closedir(dir);
	return r;
}

int children_find(const struct layer *layer, const char *path, struct children *ret, struct err *err)
{
	struct children found = {0};
	struct search s = {.layer = layer, .found = &found};
	char *real = realpath(path, NULL);
	int r;

	s.folder = real ? path_folder(real) : NULL;
	r = s.folder ? folder_search(&s) : -errno;
	free(real);
	free(s.folder);
	if (r) {
		children_done(&found);
		return err_set(err, r, "%s: its folder cannot be searched for disks that stand on it: %s", path, strerror(-r));
	}
	*ret = found;
	return 0;
}

void children_done(struct children *children)
{
	for (unsigned i = 0; i < children->count; i++)
		free(children->paths[i]);
	free(children->paths);
	free(children->merged);
	*children = (struct children){0};
}

void children_leave_out(struct children *children, unsigned i)
{
	free(children->paths[i]);
	children->count--;
	memmove(children->paths + i, children->paths + i + 1, (children->count - i) * sizeof(*children->paths));
	memmove(children->merged + i, children->merged + i + 1, (children->count - i) * sizeof(*children->merged));
}

#define NAMED_MAX 3u

static const char *name_of(const struct children *children, unsigned i)
{
	return strrchr(children->paths[i], '/') + 1;
}

int children_refuse(const struct children *children, const char *path, struct err *err)
{
	unsigned count = children->count;
	char names[160] = "";
	size_t used = 0;

	for (unsigned i = 0; i < count; i++)
		if (children->merged[i])
			return err_set(err, VHD_E_HAS_CHILDREN, "%s: %s in its folder was merged into it, but the end of that is "
			               "missing: run `vhd merge` on that again, or remove it (or use --force)", path,
			               name_of(children, i));
	if (count == 0)
		return 0;
	for (unsigned i = 0; i < count && i < NAMED_MAX && used < sizeof(names); i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "", name_of(children, i));
	if (used < sizeof(names) && count > NAMED_MAX)
		used += (size_t)snprintf(names + used, sizeof(names) - used, " and %u more", count - NAMED_MAX);
	if (used >= sizeof(names))
		memcpy(names + sizeof(names) - 4, "...", 4);
	return err_set(err, VHD_E_HAS_CHILDREN, "%s: %s on it (%s), and would read wrong if it changed: write to a child of it, "
	               "or merge those first, or use --force", path,
	               count == 1 ? "a differencing disk stands" : "differencing disks stand", names);
}
