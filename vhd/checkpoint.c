/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vhd/chain.h"
#include "vhd/changed.h"
#include "vhd/directory.h"
#include "vhd/new-file.h"

#define SUFFIX ".changes"
#define NAME_BYTES 200 /* of the image's name in that of a record; the rest is cut */
#define RECORDS_MAX 4096u
#define SETTLE_MS 2500

/* ".<image>.<uuid>.changes" in the image's folder, both without symlinks. */
struct place {
	char *folder; /* owned */
	char *prefix; /* owned: ".<image>." */
};

static void place_done(struct place *place)
{
	free(place->folder);
	free(place->prefix);
}

static char *name_resolve(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder, *real, *ret;
	struct stat st;

	if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
		return realpath(path, NULL);
	folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	real = folder ? realpath(folder, NULL) : NULL;
	free(folder);
	if (!real)
		return NULL;
	if (asprintf(&ret, "%s/%s", strcmp(real, "/") ? real : "", slash ? slash + 1 : path) < 0)
		ret = NULL;
	free(real);
	return ret;
}

/* The image itself may be gone, but not its folder. */
static int place_find(const char *disk_path, struct place *ret, struct err *err)
{
	char *real = name_resolve(disk_path), *slash = real ? strrchr(real, '/') : NULL;
	struct place place = {0};

	if (!real)
		return err_set(err, -errno, "%s: %s", disk_path, strerror(errno));
	if (asprintf(&place.prefix, ".%.*s.", NAME_BYTES, slash + 1) < 0)
		place.prefix = NULL;
	place.folder = strndup(real, slash == real ? 1 : (size_t)(slash - real));
	free(real);
	if (!place.prefix || !place.folder) {
		place_done(&place);
		return err_set(err, -ENOMEM, "%s: no memory for the names of its checkpoint files", disk_path);
	}
	*ret = place;
	return 0;
}

static char *record_path(const struct place *place, const uint8_t from[16])
{
	char uuid[37], *path;

	vhd_uuid_text(from, uuid);
	return asprintf(&path, "%s/%s%s" SUFFIX, place->folder, place->prefix, uuid) < 0 ? NULL : path;
}

static int no_memory(struct err *err)
{
	return err_set(err, -ENOMEM, "no memory for checkpoint files");
}

static bool is_null(const uint8_t uuid[16])
{
	static const uint8_t null[16];

	return !memcmp(uuid, null, 16);
}

/* --- Stamps --- */

static struct checkpoint_stamp stamp_of(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return (struct checkpoint_stamp){0};
	return (struct checkpoint_stamp){st->st_mtim.tv_sec, (uint32_t)st->st_mtim.tv_nsec, (uint64_t)st->st_size};
}

static bool stamp_fits(const struct checkpoint_stamp *stamp, const struct stat *st)
{
	struct checkpoint_stamp now = stamp_of(st);

	return now.size && stamp->seconds == now.seconds && stamp->nanoseconds == now.nanoseconds &&
	       stamp->size == now.size;
}

/*
 * Times of files move on by ticks: what is written within the tick of the last change would not show. So the stamp
 * counts only when the clock has left it behind; file systems without fractions of seconds may have ticks of two.
 */
static bool stamp_is_settled(const struct stat *st)
{
	struct timespec now, tick = st->st_mtim;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (tick.tv_nsec == 0)
		tick.tv_sec += 2;
	return now.tv_sec > tick.tv_sec || (now.tv_sec == tick.tv_sec && now.tv_nsec > tick.tv_nsec);
}

int checkpoint_stamp_take(const char *disk_path, struct checkpoint_stamp *ret, struct err *err)
{
	const struct timespec step = {.tv_nsec = 1000000};
	struct stat st;

	for (unsigned i = 0; i < SETTLE_MS; i++) {
		if (stat(disk_path, &st) < 0)
			return err_set(err, -errno, "%s: %s", disk_path, strerror(errno));
		if (stamp_is_settled(&st)) {
			*ret = stamp_of(&st);
			return 0;
		}
		nanosleep(&step, NULL);
	}
	/* Changed in the future: by another machine's clock, or ours was set back. Nothing could be proved by it. */
	*ret = (struct checkpoint_stamp){0};
	return 0;
}

/* --- Records as files --- */

/* The whole file, or at most its head. -errno. */
static int record_read(const char *path, bool head_only, uint8_t **ret, size_t *ret_length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW), rc = 0;
	size_t length = 0, want = CHECKPOINT_HEAD;
	uint8_t *bytes = NULL;
	struct stat st;

	if (fd < 0)
		return errno == ELOOP ? -EBADMSG : -errno;
	if (fstat(fd, &st) < 0)
		rc = -errno;
	else if (!S_ISREG(st.st_mode))
		rc = -EBADMSG;
	else if (!head_only)
		want = (size_t)st.st_size;
	if (rc == 0) {
		bytes = malloc(want ? want : 1);
		rc = bytes ? 0 : -ENOMEM;
	}
	while (rc == 0 && length < want) {
		ssize_t n = read(fd, bytes + length, want - length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = -errno;
		if (n <= 0)
			break;
		length += (size_t)n;
	}
	close(fd);
	if (rc) {
		free(bytes);
		return rc;
	}
	*ret = bytes;
	*ret_length = length;
	return 0;
}

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, bytes, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		bytes += n;
		length -= (size_t)n;
	}
	return 0;
}

static int record_write(const char *path, const uint8_t *bytes, size_t length, struct err *err)
{
	struct new_file file;
	int rc = new_file_open(path, true, &file, err);

	if (rc)
		return rc;
	rc = write_all(file.fd, bytes, length);
	if (rc)
		err_set(err, rc, "%s: %s", path, strerror(-rc));
	else
		rc = new_file_commit(&file, err);
	new_file_done(&file);
	return rc;
}

/* Another `next` and stamp. */
static int record_reseal(const char *path, const struct checkpoint *head, struct err *err)
{
	uint8_t *bytes;
	size_t length;
	int rc = record_read(path, false, &bytes, &length);

	if (rc || length < CHECKPOINT_HEAD) {
		if (rc == 0)
			free(bytes);
		return err_set(err, rc ? rc : -EIO, "%s: it cannot be read", path);
	}
	checkpoint_reseal(bytes, head);
	rc = record_write(path, bytes, length, err);
	free(bytes);
	return rc;
}

static int disk_stat(const char *disk_path, struct stat *st, struct err *err)
{
	return stat(disk_path, st) < 0 ? err_set(err, -errno, "%s: %s", disk_path, strerror(errno)) : 0;
}

/* Stamp and all as they are. */
static int record_put(const char *disk_path, const struct checkpoint *checkpoint, struct err *err)
{
	struct place place;
	uint8_t *bytes;
	size_t length;
	char *path;
	int rc;

	rc = place_find(disk_path, &place, err);
	if (rc)
		return rc;
	path = record_path(&place, checkpoint->from);
	rc = path ? checkpoint_encode(checkpoint, &bytes, &length) : -ENOMEM;
	if (rc) {
		rc = no_memory(err);
	} else {
		rc = record_write(path, bytes, length, err);
		free(bytes);
	}
	free(path);
	place_done(&place);
	return rc;
}

int checkpoint_write(const char *disk_path, const struct checkpoint *checkpoint, struct err *err)
{
	struct checkpoint sealed = *checkpoint;
	int rc;

	rc = checkpoint_stamp_take(disk_path, &sealed.stamp, err);
	if (rc)
		return rc;
	memset(sealed.next, 0, 16);
	sealed.incomplete = false;
	return record_put(disk_path, &sealed, err);
}

static bool is_promise(const struct checkpoint *checkpoint)
{
	return checkpoint->stamp.size == 0;
}

/* What lies under the name of the record that begins with `from`, whole. 0, -ENOENT, or another -errno or verdict. */
static int record_get(const char *disk_path, const uint8_t from[16], struct checkpoint *ret)
{
	struct place place;
	uint8_t *bytes;
	size_t length;
	char *path;
	int rc = place_find(disk_path, &place, NULL);

	if (rc)
		return rc;
	path = record_path(&place, from);
	place_done(&place);
	rc = path ? record_read(path, false, &bytes, &length) : -ENOMEM;
	free(path);
	if (rc)
		return rc;
	rc = checkpoint_decode(bytes, length, ret, NULL);
	free(bytes);
	return rc;
}

int checkpoint_promise(const char *disk_path, const struct checkpoint *checkpoint, struct err *err)
{
	struct checkpoint promise = *checkpoint, earlier;
	struct stat st;
	int rc = disk_stat(disk_path, &st, err);

	if (rc)
		return rc;
	promise.stamp = (struct checkpoint_stamp){0};
	memset(promise.next, 0, 16);
	rc = record_get(disk_path, checkpoint->from, &earlier);
	if (rc == -ENOMEM)
		return no_memory(err);
	if (rc) {
		/* One that is there and cannot be read may have said what nobody can say now. */
		promise.incomplete = promise.incomplete || rc != -ENOENT;
		return record_put(disk_path, &promise, err);
	}
	/* One of another change cannot be added up with this, nor what a file holds that was written to since. */
	if (memcmp(earlier.to, promise.to, 16) || promise.to_size != earlier.to_size || earlier.incomplete ||
	    (!is_promise(&earlier) && !stamp_fits(&earlier.stamp, &st))) {
		promise.incomplete = true;
	} else {
		rc = sector_set_union(&earlier.changed, &promise.changed);
		promise.changed = earlier.changed;
	}
	rc = rc ? no_memory(err) : record_put(disk_path, &promise, err);
	checkpoint_done(&earlier);
	return rc;
}

int checkpoint_of_layer(const struct layer *layer, uint64_t below_size, struct checkpoint *ret, struct err *err)
{
	struct checkpoint c = {.from_size = below_size, .to_size = layer->size};
	int rc;

	memcpy(c.from, layer->header.parent_uuid, 16);
	memcpy(c.to, layer->footer.uuid, 16);
	rc = sector_set_init(&c.changed, layer->size / VHD_SECTOR) ? no_memory(err)
	     : layer_changes_add(layer, below_size, &c.changed, NULL, err);
	if (rc) {
		checkpoint_done(&c);
		return rc;
	}
	*ret = c;
	return 0;
}

/* --- All records beside an image --- */

struct record {
	char *path; /* owned */
	struct checkpoint head;
	bool readable;
	bool stale; /* the file is not what it was made for */
	bool keep; /* it leads to the present state */
};

struct records {
	struct place place;
	struct record *list; /* owned */
	unsigned count;
};

static void records_done(struct records *records)
{
	for (unsigned i = 0; i < records->count; i++)
		free(records->list[i].path);
	free(records->list);
	place_done(&records->place);
}

/* Whether a name in the folder is one of the image's records: the prefix, a UUID's text, the suffix. */
static bool name_is_record(const struct place *place, const char *name)
{
	size_t prefix = strlen(place->prefix), length = strlen(name);

	return length == prefix + 36 + strlen(SUFFIX) && !memcmp(name, place->prefix, prefix) &&
	       !strcmp(name + prefix + 36, SUFFIX) && strspn(name + prefix, "0123456789abcdef-") >= 36;
}

static int record_add(struct records *records, const char *name)
{
	struct record *grown = reallocarray(records->list, records->count + 1, sizeof(*grown)), record = {0};
	uint8_t *bytes;
	size_t length;
	int rc;

	if (!grown)
		return -ENOMEM;
	records->list = grown;
	if (asprintf(&record.path, "%s/%s", records->place.folder, name) < 0)
		return -ENOMEM;
	rc = record_read(record.path, true, &bytes, &length);
	if (rc == 0) {
		record.readable = checkpoint_decode_head(bytes, length, &record.head, NULL) == 0;
		free(bytes);
	}
	if (rc == -ENOENT) {
		free(record.path);
		return 0;
	}
	grown[records->count++] = record;
	return rc == -ENOMEM ? rc : 0;
}

static int records_list(const char *disk_path, struct records *ret, struct err *err)
{
	struct records records = {0};
	struct dirent *entry;
	DIR *dir;
	int rc = place_find(disk_path, &records.place, err);

	if (rc)
		return rc;
	dir = opendir(records.place.folder);
	if (!dir) {
		rc = err_set(err, -errno, "%s: its folder cannot be read: %s", disk_path, strerror(errno));
		records_done(&records);
		return rc;
	}
	while (rc == 0 && records.count < RECORDS_MAX && (entry = readdir(dir)))
		if (name_is_record(&records.place, entry->d_name))
			rc = record_add(&records, entry->d_name);
	closedir(dir);
	if (rc) {
		records_done(&records);
		return no_memory(err);
	}
	*ret = records;
	return 0;
}

/* Marks what leads to a record that is kept, over any number of others. */
static void records_keep_leading(struct records *records)
{
	bool changed = true;

	while (changed) {
		changed = false;
		for (unsigned i = 0; i < records->count; i++)
			for (unsigned j = 0; j < records->count && !records->list[i].keep; j++)
				if (records->list[i].readable && !records->list[i].stale && records->list[j].keep &&
				    !memcmp(records->list[i].head.to, records->list[j].head.from, 16))
					changed = records->list[i].keep = true;
	}
}

/* Removes what is not to be kept, durably. */
static int records_prune(const struct records *records, struct err *err)
{
	bool removed = false;
	int rc;

	for (unsigned i = 0; i < records->count; i++) {
		if (records->list[i].keep)
			continue;
		rc = directory_unlink(records->list[i].path);
		if (rc && rc != -ENOENT)
			return err_set(err, rc, "%s: cannot be removed: %s", records->list[i].path, strerror(-rc));
		removed = true;
	}
	rc = removed ? directory_sync(records->place.folder) : 0;
	return rc ? err_set(err, rc, "%s: syncing the folder failed: %s", records->place.folder, strerror(-rc)) : 0;
}

int checkpoint_begin(const char *disk_path, const uint8_t uuid[16], const uint8_t next[16], struct err *err)
{
	struct records records;
	struct stat st;
	int rc = disk_stat(disk_path, &st, err);

	if (rc == 0)
		rc = records_list(disk_path, &records, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < records.count && rc == 0; i++) {
		struct record *record = &records.list[i];
		bool same_merge = !is_null(next) && !memcmp(record->head.next, next, 16);
		bool fits = stamp_fits(&record->head.stamp, &st);

		if (!record->readable)
			continue;
		/* Promises, and what the same merge wrote before it was cut off. */
		record->keep = (is_promise(&record->head) && !memcmp(record->head.from, uuid, 16)) ||
		               (!is_null(next) && !memcmp(record->head.to, next, 16));
		if (memcmp(record->head.to, uuid, 16))
			continue;
		record->keep = fits || same_merge;
		record->stale = !record->keep;
		if (!fits || same_merge)
			continue;
		memcpy(record->head.next, next, 16);
		rc = record_reseal(record->path, &record->head, err);
	}
	records_keep_leading(&records);
	if (rc == 0)
		rc = records_prune(&records, err);
	records_done(&records);
	return rc;
}

int checkpoint_restamp(const char *disk_path, const uint8_t uuid[16], const struct checkpoint_stamp *before,
                       struct err *err)
{
	struct checkpoint_stamp now;
	struct records records;
	int rc = checkpoint_stamp_take(disk_path, &now, err);

	if (rc == 0)
		rc = records_list(disk_path, &records, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < records.count && rc == 0; i++) {
		struct record *record = &records.list[i];
		const struct checkpoint_stamp *stamp = &record->head.stamp;

		if (!record->readable || memcmp(record->head.to, uuid, 16) || before->size == 0 ||
		    stamp->seconds != before->seconds || stamp->nanoseconds != before->nanoseconds ||
		    stamp->size != before->size)
			continue;
		record->head.stamp = now;
		rc = record_reseal(record->path, &record->head, err);
	}
	records_done(&records);
	return rc;
}

int checkpoint_fulfil(const char *disk_path, const uint8_t to[16], bool drop, struct err *err)
{
	struct checkpoint_stamp now;
	struct records records;
	int rc = checkpoint_stamp_take(disk_path, &now, err);

	if (rc == 0)
		rc = records_list(disk_path, &records, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < records.count; i++) {
		struct record *record = &records.list[i];
		bool fulfilled = record->readable && is_promise(&record->head) && !memcmp(record->head.to, to, 16);

		/* A stamp that could not be taken makes no record of a promise. */
		record->keep = !fulfilled || (!drop && !record->head.incomplete && now.size);
		if (!fulfilled || !record->keep || rc)
			continue;
		record->head.stamp = now;
		rc = record_reseal(record->path, &record->head, err);
	}
	if (rc == 0)
		rc = records_prune(&records, err);
	records_done(&records);
	return rc;
}

static int record_move(const struct record *record, const struct place *place, const struct checkpoint_stamp *stamp,
                       struct err *err)
{
	char *path = record_path(place, record->head.from);
	struct checkpoint head = record->head;
	uint8_t *bytes;
	size_t length;
	int rc;

	if (!path)
		return no_memory(err);
	rc = record_read(record->path, false, &bytes, &length);
	if (rc || length < CHECKPOINT_HEAD) {
		if (rc == 0)
			free(bytes);
		free(path);
		return err_set(err, rc ? rc : -EIO, "%s: it cannot be read", record->path);
	}
	if (stamp) {
		head.stamp = *stamp;
		memset(head.next, 0, 16);
	}
	checkpoint_reseal(bytes, &head);
	rc = record_write(path, bytes, length, err);
	free(bytes);
	free(path);
	return rc;
}

/* `stamp` NULL: they keep theirs. The files are removed once all are under their new names. */
static int records_move(struct records *records, const char *to_path, const struct checkpoint_stamp *stamp,
                        struct err *err)
{
	struct place place;
	int rc = place_find(to_path, &place, err);

	if (rc)
		return rc;
	if (!strcmp(place.folder, records->place.folder) && !strcmp(place.prefix, records->place.prefix)) {
		place_done(&place);
		return 0;
	}
	for (unsigned i = 0; i < records->count && rc == 0; i++)
		if (records->list[i].keep)
			rc = record_move(&records->list[i], &place, stamp, err);
	for (unsigned i = 0; i < records->count; i++)
		records->list[i].keep = false;
	if (rc == 0)
		rc = records_prune(records, err);
	place_done(&place);
	return rc;
}

int checkpoint_adopt(const char *gone_path, const uint8_t gone_uuid[16], const char *disk_path, struct err *err)
{
	struct checkpoint_stamp stamp;
	struct records records;
	struct stat st;
	int rc = disk_stat(gone_path, &st, err);

	if (rc == 0)
		rc = checkpoint_stamp_take(disk_path, &stamp, err);
	if (rc == 0)
		rc = records_list(gone_path, &records, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < records.count; i++) {
		struct record *record = &records.list[i];

		record->keep = record->readable && !memcmp(record->head.to, gone_uuid, 16) &&
		               stamp_fits(&record->head.stamp, &st);
	}
	records_keep_leading(&records);
	rc = records_move(&records, disk_path, &stamp, err);
	records_done(&records);
	return rc;
}

int checkpoint_rename(const char *old_path, const char *new_path, struct err *err)
{
	struct records records;
	int rc = records_list(old_path, &records, err);

	if (rc)
		return rc;
	for (unsigned i = 0; i < records.count; i++)
		records.list[i].keep = records.list[i].readable;
	rc = records_move(&records, new_path, NULL, err);
	records_done(&records);
	return rc;
}

int checkpoint_remove(const char *disk_path, struct err *err)
{
	struct records records;
	int rc = records_list(disk_path, &records, err);

	if (rc)
		return rc;
	rc = records_prune(&records, err);
	records_done(&records);
	return rc;
}

/* --- Looking up --- */

static int record_damaged(const char *path, const struct err *why, struct err *err)
{
	return err_set(err, VHD_E_UNKNOWN_BASE, "%s: what changed since the state asked for is not known: this checkpoint "
	               "file is damaged: %s", path, why->text);
}

/* The record that begins with `from`, beside any file of the chain. 0, -ENOENT, VHD_E_UNKNOWN_BASE, -errno. */
static int record_load(const struct chain *chain, const uint8_t from[16], struct checkpoint *ret, struct err *err)
{
	for (unsigned i = 0; i < chain->count; i++) {
		struct err why = {.text = "it cannot be read"};
		struct place place;
		uint8_t *bytes;
		size_t length;
		char *path;
		int rc = place_find(chain->layers[i]->path, &place, err);

		if (rc)
			return rc;
		path = record_path(&place, from);
		place_done(&place);
		rc = path ? record_read(path, false, &bytes, &length) : -ENOMEM;
		if (rc == -ENOENT) {
			free(path);
			continue;
		}
		if (rc == 0) {
			rc = checkpoint_decode(bytes, length, ret, &why);
			free(bytes);
			if (rc == 0 && memcmp(ret->from, from, 16)) {
				checkpoint_done(ret);
				rc = err_set(&why, VHD_E_CORRUPT, "it begins with another state than its name says");
			}
		} else if (rc != -ENOMEM) {
			err_set(&why, rc, "%s", strerror(-rc));
		}
		if (rc)
			rc = rc == -ENOMEM ? no_memory(err) : record_damaged(path, &why, err);
		free(path);
		return rc;
	}
	return -ENOENT;
}

/* Which layer is in the state `uuid`, and proves it by its stamp. 0, -ENOENT, VHD_E_UNKNOWN_BASE. */
static int layer_in_state(const struct chain *chain, const uint8_t uuid[16], const struct checkpoint_stamp *stamp,
                          unsigned *ret, struct err *err)
{
	const struct layer *touched = NULL;

	for (unsigned i = 0; i < chain->count; i++) {
		const struct layer *layer = chain->layers[i];
		struct stat st;

		if (layer->raw || memcmp(layer->footer.uuid, uuid, 16))
			continue;
		if (fstat(layer->store->file.fd, &st) == 0 && stamp_fits(stamp, &st)) {
			*ret = i;
			return 0;
		}
		touched = layer;
	}
	if (!touched)
		return -ENOENT;
	return err_set(err, VHD_E_UNKNOWN_BASE, "%s: what changed since the state asked for is not known: the file was "
	               "written to, or copied, after the layer that followed that state was merged into it", touched->path);
}

static int record_missing(const uint8_t uuid[16], struct err *err)
{
	char text[37];

	vhd_uuid_text(uuid, text);
	return err_set(err, VHD_E_UNKNOWN_BASE, "what changed since the state asked for is not known: the checkpoint files "
	               "lead to %s, and that is neither a layer of the chain nor does a checkpoint file lead on from it",
	               text);
}

static int promise_broken(const struct chain *chain, struct err *err)
{
	return err_set(err, VHD_E_UNKNOWN_BASE, "%s: what changed since the state asked for is not known: a merge into a "
	               "layer below was begun, and not finished, while the disk was in use", chain->layers[0]->path);
}

int checkpoint_promised(const struct chain *chain, const uint8_t from[16], struct sector_set *changed, struct err *err)
{
	struct checkpoint record;
	int rc = record_load(chain, from, &record, err);

	if (rc)
		return rc == -ENOENT ? 0 : rc;
	if (is_promise(&record) && record.incomplete)
		rc = promise_broken(chain, err);
	else if (is_promise(&record) && sector_set_union(changed, &record.changed))
		rc = no_memory(err);
	checkpoint_done(&record);
	return rc;
}

int checkpoint_find(const struct chain *chain, const uint8_t since[16], struct sector_set *changed,
                    struct checkpoint_path *ret, struct err *err)
{
	struct checkpoint_path path = {0};
	uint8_t at[16];

	memcpy(at, since, 16);
	while (path.records < RECORDS_MAX) {
		struct checkpoint record;
		int rc = record_load(chain, at, &record, err);

		if (rc == -ENOENT)
			return path.records ? record_missing(at, err) : rc;
		if (rc)
			return rc;
		if (path.records++ == 0)
			path.since_size = record.from_size;
		memcpy(at, record.to, 16);
		rc = record.incomplete ? promise_broken(chain, err)
		     : sector_set_union(changed, &record.changed) ? no_memory(err)
		     : layer_in_state(chain, at, &record.stamp, &path.layer, err);
		checkpoint_done(&record);
		if (rc == 0)
			*ret = path;
		if (rc != -ENOENT)
			return rc;
	}
	return err_set(err, VHD_E_UNKNOWN_BASE, "what changed since the state asked for is not known: the checkpoint files "
	               "lead on and on");
}
