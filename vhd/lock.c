/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU shows what it does with a file as read locks on single bytes: 100 + p "I use permission p", 200 + p "nobody else
 * may". p is 0 for consistent reading, 1 for writing, 3 for resizing. Who comes later checks by asking whether a write
 * lock on the byte that excludes him would be granted; it is never taken. We do the same.
 */
#include "vhd/lock.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "vhd/vhd.h"

/* How often to look whether a lock is gone that no process is seen to hold, every 25 ms: 3 s. */
#define LOOKS 120

#define USE_READ 100
#define USE_WRITE 101
#define USE_RESIZE 103
#define DENY_READ 200
#define DENY_WRITE 201
#define DENY_RESIZE 203

static struct flock byte_lock(short type, int byte)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

/* 0, -EAGAIN, -errno; locks that the file system does not have count as granted. */
static int byte_take(int fd, int byte)
{
	struct flock lock = byte_lock(F_RDLCK, byte);

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EACCES)
		return -EAGAIN;
	return errno == EINVAL || errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS ? 0 : -errno;
}

static void byte_drop(int fd, int byte)
{
	struct flock lock = byte_lock(F_UNLCK, byte);

	(void)fcntl(fd, F_OFD_SETLK, &lock);
}

static bool byte_is_held(int fd, int byte)
{
	struct flock lock = byte_lock(F_WRLCK, byte);

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static const int takes[] = {USE_READ, DENY_WRITE, DENY_RESIZE, USE_WRITE, USE_RESIZE};
static const int checks[] = {USE_WRITE, USE_RESIZE, DENY_READ, DENY_WRITE, DENY_RESIZE};
#define READER_LOCKS 3 /* how many of each a reader needs */
#define WRITER_LOCKS 5

/* Whether locks from byte `start` to `end` ("EOF": all) exclude who wants this. */
static bool range_excludes(long start, const char *end, bool write)
{
	long last = isdigit((unsigned char)*end) ? strtol(end, NULL, 10) : LONG_MAX;

	for (unsigned i = 0; i < (write ? WRITER_LOCKS : READER_LOCKS); i++)
		if (checks[i] >= start && checks[i] <= last)
			return true;
	return false;
}

/* Whether the text of a file of /proc/PID/fdinfo shows an OFD lock on this file that is in our way. */
static bool fdinfo_has_lock(const char *name, const struct stat *file, bool write)
{
	unsigned major, minor;
	unsigned long long inode;
	bool found = false;
	char line[256];
	FILE *f = fopen(name, "re");

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		char *at = strstr(line, "OFDLCK");
		char kind[16], mode[16], end[24];
		long pid, start;

		/* lock:	1: OFDLCK ADVISORY  READ -1 08:01:1835009 100 100 */
		found = !strncmp(line, "lock:", 5) && at &&
		        sscanf(at + 6, "%15s %15s %ld %x:%x:%llu %ld %23s", kind, mode, &pid, &major, &minor, &inode,
		               &start, end) == 8 &&
		        inode == file->st_ino && range_excludes(start, end, write);
	}
	fclose(f);
	return found;
}

/* Whether process `pid` has this very file open with a lock on it, other than by our own descriptor. */
static bool process_holds(const char *pid, const struct stat *file, int own_fd, bool write)
{
	bool own = strtol(pid, NULL, 10) == getpid(), found = false;
	char path[300];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		struct stat st;

		if (!isdigit((unsigned char)entry->d_name[0]) || (own && atoi(entry->d_name) == own_fd))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/fd/%.20s", pid, entry->d_name);
		if (stat(path, &st) < 0 || st.st_dev != file->st_dev || st.st_ino != file->st_ino)
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/fdinfo/%.20s", pid, entry->d_name);
		found = fdinfo_has_lock(path, file, write);
	}
	closedir(dir);
	return found;
}

static void process_name(const char *pid, char *ret, size_t size)
{
	char path[64], name[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	f = fopen(path, "re");
	if (f && fgets(name, sizeof(name), f))
		name[strcspn(name, "\n")] = '\0';
	if (f)
		fclose(f);
	snprintf(ret, size, "%s (pid %.20s)", name[0] ? name : "a process", pid);
}

/* OFD locks name no process; /proc shows those of processes that we may look into. */
static bool holder_name(int fd, bool write, char *ret, size_t size)
{
	bool found = false;
	struct dirent *entry;
	struct stat file;
	DIR *dir;

	if (fstat(fd, &file) < 0)
		return false;
	dir = opendir("/proc");
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]) || !process_holds(entry->d_name, &file, fd, write))
			continue;
		found = true;
		if (strtol(entry->d_name, NULL, 10) == getpid())
			snprintf(ret, size, "this process");
		else
			process_name(entry->d_name, ret, size);
	}
	closedir(dir);
	return found;
}

static int others_exclude(int fd, unsigned check_count)
{
	for (unsigned i = 0; i < check_count; i++)
		if (byte_is_held(fd, checks[i]))
			return -EAGAIN;
	return 0;
}

static int lock_try(int fd, bool write)
{
	unsigned take_count = write ? WRITER_LOCKS : READER_LOCKS, check_count = take_count, taken = 0;
	int r = 0;

	while (taken < take_count && r == 0) {
		r = byte_take(fd, takes[taken]);
		taken += r == 0;
	}
	if (r == 0)
		r = others_exclude(fd, check_count);
	if (r == 0)
		return 0;
	for (unsigned i = 0; i < taken; i++)
		byte_drop(fd, takes[i]);
	return r;
}

static int refused(int fd, const char *path, bool write, int r, struct err *err)
{
	char holder[128];

	if (r != -EAGAIN)
		return err_set(err, r, "%s: locking it failed: %s", path, strerror(-r));
	if (!holder_name(fd, write, holder, sizeof(holder)))
		return err_set(err, VHD_E_IN_USE, "%s: in use: held by another process, which is not seen here (another user's, "
		               "or in a container); close it there first", path);
	return err_set(err, VHD_E_IN_USE, "%s: in use: held by %s; close it there first", path, holder);
}

int lock_raise(int fd, int reader, const char *path, struct err *err)
{
	const struct timespec pause = {.tv_nsec = 25000000};
	char holder[128];
	unsigned taken = 0;
	int r = 0;

	/* Whoever looks meanwhile finds the locks of one or of both. */
	while (taken < WRITER_LOCKS && r == 0) {
		r = byte_take(fd, takes[taken]);
		taken += r == 0;
	}
	if (r == 0) {
		byte_drop(reader, DENY_WRITE);
		byte_drop(reader, DENY_RESIZE);
		r = others_exclude(fd, WRITER_LOCKS);
		/* As in lock_take. */
		for (int i = 0; i < LOOKS && r && (i == 0 || !holder_name(fd, true, holder, sizeof(holder))); i++) {
			nanosleep(&pause, NULL);
			r = others_exclude(fd, WRITER_LOCKS);
		}
		if (r == 0)
			return 0;
		(void)byte_take(reader, DENY_WRITE);
		(void)byte_take(reader, DENY_RESIZE);
	}
	for (unsigned i = 0; i < taken; i++)
		byte_drop(fd, takes[i]);
	return refused(fd, path, true, r, err);
}

void lock_drop(int fd)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	(void)fcntl(fd, F_OFD_SETLK, &lock);
}

void lock_lower(int fd)
{
	byte_drop(fd, USE_WRITE);
	byte_drop(fd, USE_RESIZE);
}

int lock_take(int fd, const char *path, bool write, struct err *err)
{
	const struct timespec pause = {.tv_nsec = 25000000};
	char holder[128];
	int r = lock_try(fd, write);

	/*
	 * The kernel takes a killed program's ring apart some time after the program is gone, and only then lets go of
	 * its files and locks (seen: 60 ms, and more than 500 on a busy machine). And who is refused holds some locks for
	 * a moment. So it is tried twice, and for a while if nobody is seen to hold what excludes us. A lock is never taken
	 * from anybody: a holder whom /proc does not show (in another container) costs us that time and no more.
	 */
	for (int i = 0; i < LOOKS && r == -EAGAIN && (i == 0 || !holder_name(fd, write, holder, sizeof(holder))); i++) {
		nanosleep(&pause, NULL);
		r = lock_try(fd, write);
	}
	return r ? refused(fd, path, write, r, err) : 0;
}
