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

/* For raw parents, which have no Unique Id. */
static bool leads_to_self(const struct search *s, const char *name)
{
	struct parent_candidates candidates;
	struct layer *child;
	struct store *store;
	struct stat st;
	bool found = false;
	char *path;
	int fd;

	if (asprintf(&path, "%s/%s", strcmp(s->folder, "/") ? s->folder : "", name) < 0)
		return false;
	fd = openat(s->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0 && store_file_open_take(fd, path, 0, &store, NULL) == 0 &&
	    layer_open_take(store, path, NULL, &child, NULL) == 0) {
		if (parent_candidates_find(child, s->folder, &candidates, NULL, NULL) == 0) {
			for (unsigned i = 0; i < candidates.count && !found; i++)
				found = stat(candidates.paths[i], &st) == 0 && st.st_dev == s->self.st_dev && st.st_ino == s->self.st_ino;
			parent_candidates_done(&candidates);
		}
		layer_free(child);
	}
	free(path);
	return found;
}

static bool is_child(const struct search *s, const char *name)
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
		return false;
	fd = openat(s->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return false;
	differencing = footer_read(fd, &st, &footer) && footer.type == VHD_DIFFERENCING && header_read(fd, &footer, &header);
	close(fd);
	if (!differencing)
		return false;
	if (s->layer->raw)
		return !memcmp(header.parent_uuid, null, sizeof(null)) && leads_to_self(s, name);
	return !memcmp(header.parent_uuid, s->layer->footer.uuid, sizeof(null));
}

static int child_add(struct search *s, const char *name)
{
	struct children *c = s->found;
	char **paths = reallocarray(c->paths, c->count + 1, sizeof(*paths));

	if (!paths)
		return -ENOMEM;
	c->paths = paths;
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
	for (errno = 0; r == 0 && (entry = readdir(dir)); errno = 0)
		if ((entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN) && is_child(s, entry->d_name))
			r = child_add(s, entry->d_name);
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
	*children = (struct children){0};
}
