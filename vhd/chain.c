/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/defect.h"
#include "vhd/folders.h"
#include "vhd/lock.h"
#include "vhd/parent-search.h"

/* While a chain is being opened. */
struct walk {
	const struct vhd_open_options *options;
	const struct layer_sink *sink;
	struct chain *chain;
	struct folders allowed;
	struct {
		dev_t dev;
		ino_t ino;
	} files[VHD_MAX_LAYERS];
	char *folder; /* owned: of the last layer, symlinks resolved */
	struct err *err;
};

static bool walk_collects(const struct walk *walk)
{
	return walk->sink && walk->sink->defect && !walk->sink->strict;
}

static void defect_to_warn(void *user, const struct vhd_defect *defect)
{
	const struct vhd_open_options *options = user;
	struct err sentence;

	if (defect->severity == VHD_NOTE)
		return;
	err_set(&sentence, 0, "%s: %s", defect->path, defect->sentence);
	options->warn(options->user, sentence.text);
}

static char *fd_path(int fd)
{
	char link[64], *path = malloc(4096 + 1);
	ssize_t n;

	if (!path)
		return NULL;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, 4096);
	if (n <= 0) {
		free(path);
		return NULL;
	}
	path[n] = '\0';
	return path;
}

static int kind_check(int fd, const char *path, bool write, struct stat *st, struct err *err)
{
	if (fstat(fd, st) < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (S_ISDIR(st->st_mode))
		return err_set(err, -EISDIR, "%s: a folder, not an image", path);
	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return err_set(err, -EINVAL, "%s: neither a regular file nor a block device", path);
	if (write && S_ISBLK(st->st_mode))
		return err_set(err, -EROFS, "%s: a VHD on a block device can only be opened for reading", path);
	return 0;
}

/*
 * Opens, judges by what was opened, and locks. The first descriptor is O_PATH, so that nothing is disturbed (devices,
 * FIFOs) before it is known to be allowed. `parent_of` NULL: the leaf. `ret_real` is the caller's to free.
 */
static int member_open(struct walk *walk, const char *path, const char *parent_of, bool write, struct store **ret,
                       char **ret_real, struct err *err)
{
	unsigned direct = walk->options->flags & VHD_OPEN_DIRECT;
	char link[64], *real = NULL;
	struct stat st;
	int handle, fd, r;

	handle = open(path, O_PATH | O_CLOEXEC);
	if (handle < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	r = kind_check(handle, path, write, &st, err);
	if (r)
		goto out;
	real = fd_path(handle);
	if (!real) {
		r = err_set(err, -ENOENT, "%s: its real path cannot be found out (is /proc mounted?)", path);
		goto out;
	}
	if (parent_of && !folders_hold(&walk->allowed, real)) {
		char *folder = path_folder(real);

		r = err_set(err, VHD_E_PARENT_DENIED, "%s: its parent %s lies outside the allowed folders; if that is right, "
		            "allow it with --allow-dir %s", parent_of, real, folder ? folder : "DIR");
		free(folder);
		goto out;
	}
	for (unsigned i = 0; i < walk->chain->count; i++)
		if (walk->files[i].dev == st.st_dev && walk->files[i].ino == st.st_ino) {
			r = err_set(err, VHD_E_CHAIN, "%s: its parent %s is %s: the chain of parents is a cycle", parent_of, real,
			            i + 1 == walk->chain->count ? "the image itself" : "already part of the chain");
			goto out;
		}

	snprintf(link, sizeof(link), "/proc/self/fd/%d", handle);
	fd = open(link, (write ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		r = errno == EINVAL && direct
		    ? err_set(err, -EINVAL, "%s: this file system has no direct I/O (O_DIRECT)", path)
		    : err_set(err, -errno, "%s: opening it for %s failed: %s", path, write ? "writing" : "reading",
		              strerror(errno));
		goto out;
	}
	r = lock_take(fd, path, write, err);
	if (r) {
		close(fd);
		goto out;
	}
	r = store_file_open_take(fd, path, (write ? STORE_WRITE : 0) | (direct ? STORE_DIRECT : 0), ret, err);
	if (r == 0) {
		walk->files[walk->chain->count].dev = st.st_dev;
		walk->files[walk->chain->count].ino = st.st_ino;
		*ret_real = real;
		real = NULL;
	}
out:
	free(real);
	close(handle);
	return r;
}

/* Takes both over. */
static int walk_push(struct walk *walk, struct layer *layer, char *real)
{
	struct chain *chain = walk->chain;
	char *folder = path_folder(real);
	struct layer **layers = reallocarray(chain->layers, chain->count + 1, sizeof(*layers));

	free(real);
	if (layers)
		chain->layers = layers;
	if (!layers || !folder) {
		free(folder);
		layer_free(layer);
		return err_set(walk->err, -ENOMEM, "no memory for a chain of %u images", chain->count + 1);
	}
	layers[chain->count++] = layer;
	free(walk->folder);
	walk->folder = folder;
	return 0;
}

static bool uuid_is_null(const uint8_t uuid[16])
{
	static const uint8_t null[16];

	return !memcmp(uuid, null, sizeof(null));
}

static struct defect_scope child_scope(const struct walk *walk)
{
	return (struct defect_scope){walk->chain->layers[walk->chain->count - 1]->path, walk->sink, walk->err};
}

/* The UUID is right. Tools disagree on which of the parent's times a child records, so either will do. */
static void time_stamp_check(const struct walk *walk, const struct layer *child, const struct layer *parent)
{
	struct defect_scope scope = child_scope(walk);
	uint32_t stamp = child->header.parent_time_stamp;
	struct stat st;

	if (stamp == 0 || stamp == parent->footer.time_stamp)
		return;
	if (fstat(parent->store->file.fd, &st) == 0 && st.st_mtime - VHD_EPOCH == (time_t)stamp)
		return;
	defect_report(&scope, VHD_WARNING, "parent-time-stamp", VHD_E_CORRUPT, child->header_offset + 0x38,
	              "the time stamp recorded for the parent %s is not its modification time: it was changed, or copied, "
	              "since this differencing disk was made; if its content changed, this disk is wrong", parent->path);
}

/*
 * The parent carries the Unique Id of the child itself, or of one that stands on it: it holds the content of all layers
 * from there down.
 */
static bool is_merged_into(const struct chain *chain, const struct layer *parent)
{
	const struct layer *child = chain->layers[chain->count - 1];

	if (!memcmp(child->header.parent_uuid, parent->footer.uuid, 16))
		return false;
	for (unsigned i = 0; i < chain->count; i++)
		if (!chain->layers[i]->raw && !memcmp(chain->layers[i]->footer.uuid, parent->footer.uuid, 16))
			return true;
	return false;
}

static int uuid_check(const struct chain *chain, const struct layer *parent, struct err *err)
{
	const struct layer *child = chain->layers[chain->count - 1];
	char wanted[37], found[37];

	if (!memcmp(child->header.parent_uuid, parent->footer.uuid, 16))
		return 0;
	/* At the end of a merge the parent takes the child's identity; what stands on the child is then given new locators. */
	if (is_merged_into(chain, parent))
		return 0;
	vhd_uuid_text(child->header.parent_uuid, wanted);
	vhd_uuid_text(parent->footer.uuid, found);
	return err_set(err, VHD_E_PARENT_MISMATCH, "%s: %s is not its parent: the Unique Id is %s where the child's "
	               "header says %s; name the right file with --parent FILE", child->path, parent->path, found, wanted);
}

/* Opens `path` as the parent of the last layer, or says why it is not. Adds it to the chain. */
static int parent_try(struct walk *walk, const char *path, bool raw, struct err *err)
{
	struct layer *child = walk->chain->layers[walk->chain->count - 1], *parent;
	struct store *store;
	char *real;
	int r;

	r = member_open(walk, path, child->path, false, &store, &real, err);
	if (r)
		return r;
	r = raw ? layer_open_raw_take(store, real, &parent, err)
	        : layer_open_take(store, real, walk->sink, &parent, err);
	if (r == 0 && !raw) {
		r = uuid_check(walk->chain, parent, err);
		if (r)
			layer_free(parent);
	}
	if (r) {
		free(real);
		return r;
	}
	if (!raw && is_merged_into(walk->chain, parent)) {
		struct defect_scope scope = child_scope(walk);

		defect_report(&scope, VHD_WARNING, "parent-merged", VHD_E_CORRUPT, child->header_offset + 0x28,
		              "it has been merged into its parent %s, but the merge did not end: run `vhd merge` on it again", real);
	} else if (!raw) {
		time_stamp_check(walk, child, parent);
	} else if (!uuid_is_null(child->header.parent_uuid)) {
		struct defect_scope scope = child_scope(walk);

		defect_report(&scope, VHD_WARNING, "parent-raw", VHD_E_CORRUPT, child->header_offset + 0x28,
		              "its parent was a VHD with a Unique Id when it was made; %s is taken for it as a raw disk, unproven",
		              real);
	}
	child->parent_path = strdup(real);
	if (!child->parent_path) {
		layer_free(parent);
		free(real);
		return err_set(err, -ENOMEM, "%s: no memory for its parent's path", child->path);
	}
	return walk_push(walk, parent, real);
}

static void locator_warn(void *user, uint64_t offset, const char *sentence)
{
	struct defect_scope scope = child_scope(user);

	defect_report(&scope, VHD_WARNING, "locator-unusable", VHD_E_CORRUPT, offset, "%s", sentence);
}

static int parent_missing(const struct walk *walk, const struct parent_candidates *tried, struct err *err)
{
	const struct layer *child = walk->chain->layers[walk->chain->count - 1];
	bool leaf = walk->chain->count == 1;
	char list[256] = "";
	size_t used = 0;

	for (unsigned i = 0; i < tried->count && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", tried->paths[i]);
	if (used >= sizeof(list))
		memcpy(list + sizeof(list) - 4, "...", 4);
	if (tried->count == 0)
		snprintf(list, sizeof(list), "nowhere: it names none");
	return err_set(err, VHD_E_PARENT_MISSING, "%s: its parent was not found (looked for: %s); %s", child->path, list,
	               leaf ? "name it with --parent FILE" : "put it beside this file");
}

static bool is_absence(int r)
{
	return r == -ENOENT || r == -ENOTDIR || r == -ENAMETOOLONG || r == -ELOOP;
}

/* The first candidate that is the parent; else the first thing that was wrong with one that is there. */
static int parent_search(struct walk *walk, bool raw, struct err *err)
{
	struct layer *child = walk->chain->layers[walk->chain->count - 1];
	struct parent_candidates candidates;
	int r, first = 0;

	r = parent_candidates_find(child, walk->folder, &candidates, locator_warn, walk);
	if (r)
		return err_set(err, r, "%s: no memory to look for its parent", child->path);
	for (unsigned i = 0; i < candidates.count; i++) {
		struct err why;

		r = parent_try(walk, candidates.paths[i], raw, &why);
		if (r == 0)
			break;
		if (!is_absence(r) && first == 0) {
			first = r;
			err_set(err, r, "%s", why.text);
		}
		r = -ENOENT;
	}
	if (candidates.count == 0 || r)
		r = first ? first : parent_missing(walk, &candidates, err);
	parent_candidates_done(&candidates);
	return r;
}

static int parent_open(struct walk *walk, struct err *err)
{
	const struct vhd_open_options *options = walk->options;
	struct layer *child = walk->chain->layers[walk->chain->count - 1];
	bool raw = uuid_is_null(child->header.parent_uuid);
	int r;

	if (walk->chain->count == VHD_MAX_LAYERS)
		return err_set(err, VHD_E_CHAIN, "%s: it is the %uth image of its chain and has yet another parent; more than %u "
		               "are not opened", child->path, walk->chain->count, VHD_MAX_LAYERS);
	if (walk->chain->count > 1 || !options->parent)
		return parent_search(walk, raw, err);
	r = parent_try(walk, options->parent, raw || options->parent_raw, err);
	if (is_absence(r))
		return err_set(err, VHD_E_PARENT_MISSING, "%s: the parent %s was not found: %s", child->path, options->parent,
		               strerror(-r));
	return r;
}

static const char *parent_defect_code(int r)
{
	switch (r) {
	case VHD_E_PARENT_MISMATCH:
		return "parent-mismatch";
	case VHD_E_PARENT_DENIED:
		return "parent-denied";
	case VHD_E_CHAIN:
		return "parent-chain";
	case VHD_E_PARENT_MISSING:
		return "parent-missing";
	default:
		return "parent-unreadable";
	}
}

/* A parent in use is not lost: whoever collects damage is to come again. Nor is one that we may not or cannot open. */
static bool ends_collecting(const struct walk *walk, int r)
{
	if (r == VHD_E_IN_USE || r == -ENOMEM)
		return true;
	return walk->sink->damage_only && (r == VHD_E_PARENT_DENIED || r == -EACCES || r == -EPERM || r == -EMFILE ||
	                                   r == -ENFILE);
}

static bool wants_parent(const struct walk *walk)
{
	const struct layer *last = walk->chain->layers[walk->chain->count - 1];

	return !last->raw && last->footer.type == VHD_DIFFERENCING && !(walk->options->flags & VHD_OPEN_NO_PARENTS);
}

static int parents_open(struct walk *walk)
{
	while (wants_parent(walk)) {
		struct defect_scope scope = child_scope(walk);
		struct err why = {""};
		size_t path_length;
		int r;

		r = parent_open(walk, &why);
		if (r == 0)
			continue;
		if (!walk_collects(walk) || ends_collecting(walk, r))
			return err_set(walk->err, r, "%s", why.text);
		/* The defect carries the path; its sentence need not. */
		path_length = strlen(scope.path);
		defect_report(&scope, VHD_DAMAGE, parent_defect_code(r), r, 0, "%s",
		              !strncmp(why.text, scope.path, path_length) && why.text[path_length] == ':'
		              ? why.text + path_length + 2 : why.text);
		return 0;
	}
	return 0;
}

static int leaf_open(struct walk *walk, const char *path)
{
	const struct vhd_open_options *options = walk->options;
	struct store *store;
	struct layer *leaf;
	char *real;
	int r;

	r = member_open(walk, path, NULL, options->flags & VHD_OPEN_WRITE, &store, &real, walk->err);
	if (r)
		return r;
	r = layer_open_take(store, path, walk->sink, &leaf, walk->err);
	if (r) {
		free(real);
		return r;
	}
	r = walk_push(walk, leaf, real);
	if (r == 0 && options->parent && leaf->footer.type != VHD_DIFFERENCING)
		return err_set(walk->err, -EINVAL, "%s: a %s disk, which has no parent: leave out --parent", path,
		               vhd_type_name(leaf->footer.type));
	if (r == 0)
		r = folders_init(&walk->allowed, walk->folder, options->parent, options->allow_dirs, walk->err);
	return r;
}

int chain_open(const char *path, const struct vhd_open_options *options, const struct layer_sink *sink,
               struct chain *ret, struct err *err)
{
	static const struct vhd_open_options defaults;
	struct layer_sink warnings = {.defect = defect_to_warn, .user = (void *)options, .strict = true};
	struct chain chain = {0};
	struct walk walk = {
		.options = options ? options : &defaults,
		.sink = sink ? sink : options && options->warn ? &warnings : NULL,
		.chain = &chain,
		.err = err,
	};
	int r;

	if ((walk.options->flags & VHD_OPEN_WRITE) && (walk.options->flags & (VHD_OPEN_SALVAGE | VHD_OPEN_NO_PARENTS)))
		return err_set(err, -EINVAL, "%s: salvaging, and looking at one file alone, are for reading only", path);
	r = leaf_open(&walk, path);
	if (r == 0)
		r = parents_open(&walk);
	folders_done(&walk.allowed);
	free(walk.folder);
	if (r) {
		chain_done(&chain);
		return r;
	}
	*ret = chain;
	return 0;
}

void chain_done(struct chain *chain)
{
	for (unsigned i = 0; i < chain->count; i++)
		layer_free(chain->layers[i]);
	free(chain->layers);
	*chain = (struct chain){0};
}
