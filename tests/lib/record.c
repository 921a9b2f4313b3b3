/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/crash.h"
#include "tests/lib/ring-inline.h"
#include "vhd/directory.h"

/* The linker's --wrap gives these their names. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
int __real_store_file_open(const char *path, unsigned flags, struct store **ret, struct err *err);
int __real_store_file_open_take(int fd, const char *path, unsigned flags, struct store **ret, struct err *err);
int __real_directory_link_fd(int fd, const char *path);
int __real_directory_link(const char *from, const char *to);
int __real_directory_rename(const char *from, const char *to, bool replace);
int __real_directory_unlink(const char *path);
int __real_directory_sync(const char *folder);
int __real_fsync(int fd);

struct known {
	struct stat st;
	int pin; /* O_PATH: while it is open the number of the inode is given to no other file; it holds no lock */
};

static struct {
	struct trace *trace; /* NULL: nothing is recorded */
	char *folder;
	struct known file[TRACE_FILES]; /* under trace->lock, as what follows */
	int8_t name[TRACE_NAMES];       /* whose it is now */
} recorder;

static void die(const char *what, const char *path)
{
	fprintf(stderr, "recorder: %s: %s\n", path, what);
	abort();
}

/* The path below the folder. Names in other folders are not recorded, and nothing may be done to them. */
static const char *name_in_folder(const char *path)
{
	size_t length = strlen(recorder.folder);

	if (strncmp(path, recorder.folder, length) || path[length] != '/' || strchr(path + length + 1, '/'))
		die("not in the folder that is recorded", path);
	return path + length + 1;
}

static unsigned name_number(const char *path)
{
	unsigned known = recorder.trace->names, number = trace_name(recorder.trace, name_in_folder(path));

	if (number >= known)
		recorder.name[number] = -1;
	return number;
}

static int file_find(const struct stat *st)
{
	for (unsigned i = 0; i < recorder.trace->files; i++)
		if (recorder.file[i].st.st_ino == st->st_ino && recorder.file[i].st.st_dev == st->st_dev)
			return (int)i;
	return -1;
}

/* The number of the file that `fd` is; one that is seen for the first time is as it lies there. */
static unsigned file_number(int fd)
{
	char proc[64], path[4096];
	struct stat st;
	ssize_t length;
	int number;

	if (fstat(fd, &st) < 0)
		die("fstat fails", recorder.folder);
	number = file_find(&st);
	if (number >= 0)
		return (unsigned)number;
	number = (int)recorder.trace->files;
	if (number == TRACE_FILES)
		die("too many files", recorder.folder);
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	recorder.file[number] = (struct known){st, open(proc, O_PATH | O_CLOEXEC)};
	if (recorder.file[number].pin < 0 || sparse_load(&recorder.trace->before[number], proc) < 0)
		die("cannot be read", proc);
	recorder.trace->files++;
	/* Made by open(O_CREAT), under a name that nobody has told us. */
	length = st.st_nlink ? readlink(proc, path, sizeof(path) - 1) : -1;
	if (length > 0) {
		path[length] = '\0';
		unsigned name = name_number(path);

		trace_add(recorder.trace, (struct trace_event){.kind = TRACE_LINK, .file = (uint8_t)number, .offset = name}, NULL);
		recorder.name[name] = (int8_t)number;
	}
	return (unsigned)number;
}

static void files_forget(void)
{
	for (unsigned i = 0; i < TRACE_FILES; i++)
		if (recorder.file[i].pin > 0)
			close(recorder.file[i].pin);
	free(recorder.folder);
	memset(&recorder, 0, sizeof(recorder));
}

void record_begin(struct trace *trace, const char *folder)
{
	struct dirent *entry;
	DIR *dir;

	trace_init(trace);
	memset(&recorder, 0, sizeof(recorder));
	recorder.trace = trace;
	recorder.folder = realpath(folder, NULL);
	dir = recorder.folder ? opendir(recorder.folder) : NULL;
	if (!dir)
		die("cannot be opened", folder);
	while ((entry = readdir(dir))) {
		char path[4096];
		struct stat st;
		unsigned name;
		int fd, number;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		snprintf(path, sizeof(path), "%s/%s", recorder.folder, entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
			die("not a regular file", path);
		name = trace_name(trace, entry->d_name);
		number = file_find(&st);
		if (number < 0) {
			number = (int)trace->files++;
			if (number == TRACE_FILES || sparse_load(&trace->before[number], path) < 0)
				die("cannot be read", path);
			recorder.file[number] = (struct known){st, open(path, O_PATH | O_CLOEXEC)};
		}
		close(fd);
		trace->name_before[name] = recorder.name[name] = (int8_t)number;
	}
	closedir(dir);
}

static int sparse_differ(const struct sparse *a, const struct sparse *b)
{
	uint8_t x[4096], y[4096];

	if (a->size != b->size)
		return 1;
	for (uint64_t offset = 0; offset < a->size; offset += sizeof(x)) {
		sparse_read(a, x, sizeof(x), offset);
		sparse_read(b, y, sizeof(y), offset);
		if (memcmp(x, y, sizeof(x)) != 0)
			return 1;
	}
	return 0;
}

/* Whether the names and files that the trace adds up to are those that are there. */
static int folder_compare(const struct crash_state *whole, struct err *err)
{
	struct trace *trace = recorder.trace;
	unsigned expected = 0, found = 0;
	struct dirent *entry;
	char path[4096];
	DIR *dir;

	for (unsigned i = 0; i < trace->names; i++) {
		struct sparse now;
		int differ;

		if (whole->name[i] < 0)
			continue;
		expected++;
		snprintf(path, sizeof(path), "%s/%s", recorder.folder, trace->name[i]);
		if (sparse_load(&now, path) < 0)
			return err_set(err, -EILSEQ, "%s is not there, and the recording says it is", path);
		differ = sparse_differ(&now, &whole->files[whole->name[i]]);
		sparse_done(&now);
		if (differ)
			return err_set(err, -EILSEQ, "%s is not what was recorded", path);
	}
	dir = opendir(recorder.folder);
	while (dir && (entry = readdir(dir)))
		found += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
	if (dir)
		closedir(dir);
	return found == expected ? 0 : err_set(err, -EILSEQ, "%u files in the folder, %u in the recording", found, expected);
}

int record_end(struct err *err)
{
	struct crash_state whole;
	int rc;

	crash_state_make_whole(recorder.trace, recorder.trace->count, &whole);
	rc = folder_compare(&whole, err);
	crash_state_done(&whole);
	files_forget();
	return rc;
}

static struct store *store_recorded(struct store *store)
{
	static struct store_ops inline_ops; /* the same for all files; set before there are threads */
	unsigned number;

	if (!recorder.trace) {
		if (!inline_ops.read) {
			inline_ops = *store->ops;
			inline_ops.ring_new = ring_inline_store_ring_new;
		}
		store->ops = &inline_ops;
		return store;
	}
	pthread_mutex_lock(&recorder.trace->lock);
	number = file_number(store->file.fd);
	pthread_mutex_unlock(&recorder.trace->lock);
	return store_trace_reopen_take(store, recorder.trace, number);
}

int __wrap_store_file_open(const char *path, unsigned flags, struct store **ret, struct err *err)
{
	int rc = __real_store_file_open(path, flags, ret, err);

	if (rc == 0)
		*ret = store_recorded(*ret);
	return rc;
}

int __wrap_store_file_open_take(int fd, const char *path, unsigned flags, struct store **ret, struct err *err)
{
	int rc = __real_store_file_open_take(fd, path, flags, ret, err);

	if (rc == 0)
		*ret = store_recorded(*ret);
	return rc;
}

/* The lock is held while the operation runs, so that the order recorded is the one in which it took effect. */
static void name_lock(void)
{
	if (recorder.trace)
		pthread_mutex_lock(&recorder.trace->lock);
}

static int name_unlock(int rc)
{
	if (recorder.trace)
		pthread_mutex_unlock(&recorder.trace->lock);
	return rc;
}

static void note_link(unsigned file, const char *path)
{
	unsigned name = name_number(path);

	recorder.name[name] = (int8_t)file;
	trace_add(recorder.trace, (struct trace_event){.kind = TRACE_LINK, .file = (uint8_t)file, .offset = name}, NULL);
}

/* Whose the name is: something that was there when the recording began, or came since. */
static unsigned name_owner(const char *path)
{
	int8_t owner = recorder.name[name_number(path)];

	if (owner < 0)
		die("the name of no file that is known", path);
	return (unsigned)owner;
}

int __wrap_directory_link_fd(int fd, const char *path)
{
	int rc;

	name_lock();
	if (recorder.trace)
		(void)file_number(fd);
	rc = __real_directory_link_fd(fd, path);
	if (rc == 0 && recorder.trace)
		note_link(file_number(fd), path);
	return name_unlock(rc);
}

int __wrap_directory_link(const char *from, const char *to)
{
	int rc;

	name_lock();
	rc = __real_directory_link(from, to);
	if (rc == 0 && recorder.trace)
		note_link(name_owner(from), to);
	return name_unlock(rc);
}

int __wrap_directory_rename(const char *from, const char *to, bool replace)
{
	int rc;

	name_lock();
	rc = __real_directory_rename(from, to, replace);
	if (rc == 0 && recorder.trace) {
		unsigned file = name_owner(from), old = name_number(from), new = name_number(to);

		recorder.name[old] = -1;
		recorder.name[new] = (int8_t)file;
		trace_add(recorder.trace, (struct trace_event){.kind = TRACE_RENAME, .file = (uint8_t)file, .barrier = replace,
		                                               .offset = old, .length = new}, NULL);
	}
	return name_unlock(rc);
}

int __wrap_directory_unlink(const char *path)
{
	int rc;

	name_lock();
	rc = __real_directory_unlink(path);
	if (rc == 0 && recorder.trace) {
		unsigned file = name_owner(path), name = name_number(path);

		recorder.name[name] = -1;
		trace_add(recorder.trace, (struct trace_event){.kind = TRACE_UNLINK, .file = (uint8_t)file, .offset = name}, NULL);
	}
	return name_unlock(rc);
}

int __wrap_directory_sync(const char *folder)
{
	struct trace_event event = {.kind = TRACE_NAMES_SYNC_BEGIN};
	struct trace *trace = recorder.trace;
	char *real = trace ? realpath(folder, NULL) : NULL;
	int rc;

	if (real && strcmp(real, recorder.folder))
		die("another folder than the one that is recorded", real);
	free(real);
	if (trace) {
		pthread_mutex_lock(&trace->lock);
		event.length = trace->names_syncs++;
		event.offset = trace_add(trace, event, NULL);
		pthread_mutex_unlock(&trace->lock);
	}
	rc = __real_directory_sync(folder);
	if (trace && rc == 0) {
		event.kind = TRACE_NAMES_SYNC_END;
		pthread_mutex_lock(&trace->lock);
		trace_add(trace, event, NULL);
		pthread_mutex_unlock(&trace->lock);
	}
	return rc;
}

int __wrap_fsync(int fd)
{
	struct trace_event event = {.kind = TRACE_SYNC_BEGIN, .barrier = STORE_BARRIER_NEW_FILE};
	struct trace *trace = recorder.trace;
	struct stat st;
	int rc, file = -1;

	if (trace && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
		pthread_mutex_lock(&trace->lock);
		file = file_find(&st);
		event.file = (uint8_t)file;
		if (file >= 0)
			event.offset = trace_add(trace, event, NULL);
		pthread_mutex_unlock(&trace->lock);
	}
	rc = __real_fsync(fd);
	if (file >= 0 && rc == 0) {
		event.kind = TRACE_SYNC_END;
		pthread_mutex_lock(&trace->lock);
		trace_add(trace, event, NULL);
		pthread_mutex_unlock(&trace->lock);
	}
	return rc;
}
