/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Does the same random things in two folders and compares what each call returned, then the trees.
 * Usage: fs-exercise run|run-old-times SEED COUNT DIR DIR | fs-exercise compare DIR DIR
 * What the first folder does not support is not done in the second. Old times: whole seconds before 2038.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static uint64_t state;
static const char *roots[2];
static bool old_times;

static uint64_t rnd(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

struct op {
	unsigned kind;
	char a[64], b[64];
	uint64_t offset, length, value;
};

/* Few names and folders, so that they meet often. */
static void random_path(char *ret, bool long_name)
{
	static const char *const folders[] = {"", "d0/", "d1/", "d0/d2/", "d1/d3/d4/"};
	static const char *const names[] = {"f", "file with blanks ", "d", "\xc3\xa4\xc3\xb6"};
	char name[48];

	snprintf(name, sizeof(name), "%s%u", names[rnd(4)], (unsigned)rnd(6));
	if (long_name)
		snprintf(name, sizeof(name), "a-name-that-is-rather-long-%u", (unsigned)rnd(40));
	snprintf(ret, 64, "%s%s", folders[rnd(5)], name);
}

static void random_op(struct op *op)
{
	memset(op, 0, sizeof(*op));
	op->kind = (unsigned)rnd(18);
	random_path(op->a, rnd(4) == 0);
	random_path(op->b, rnd(4) == 0);
	op->offset = rnd(3) ? rnd(40000) : rnd(3000000);
	op->length = rnd(3) ? 1 + rnd(9000) : 1 + rnd(300000);
	op->value = rnd(UINT32_MAX);
}

static uint8_t *pattern(uint64_t value, size_t length)
{
	uint8_t *p = malloc(length);

	for (size_t i = 0; p && i < length; i++)
		p[i] = (uint8_t)(value + i * 7 + (i >> 9));
	return p;
}

static long write_file(int dir, const struct op *op, int flags)
{
	uint8_t *data = pattern(op->value, op->length);
	int fd = openat(dir, op->a, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | flags, 0644);
	long n = fd < 0 || !data ? -errno : flags & O_APPEND ? write(fd, data, op->length)
	                                                     : pwrite(fd, data, op->length, (off_t)op->offset);

	if (n == -1)
		n = -errno;
	if (fd >= 0 && op->value % 16 == 0)
		fsync(fd);
	if (fd >= 0)
		close(fd);
	free(data);
	return n;
}

static long read_file(int dir, const struct op *op)
{
	uint8_t *data = malloc(op->length);
	int fd = openat(dir, op->a, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
	long n = fd < 0 || !data ? -errno : pread(fd, data, op->length, (off_t)op->offset);
	uint64_t sum = 0;

	if (n == -1)
		n = -errno;
	for (long i = 0; i < n; i++)
		sum = sum * 31 + data[i];
	if (fd >= 0)
		close(fd);
	free(data);
	return n < 0 ? n : (long)(sum & 0x7fffffff);
}

/* Written to through the descriptor after the name is gone. */
static long unlink_open(int dir, const struct op *op)
{
	int fd = openat(dir, op->a, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
	char text[8] = "";
	long r;

	if (fd < 0)
		return -errno;
	r = unlinkat(dir, op->a, 0) ? -errno : 0;
	if (r == 0 && (pwrite(fd, "orphan", 6, (off_t)op->offset) != 6 || pread(fd, text, 6, (off_t)op->offset) != 6 ||
	               strcmp(text, "orphan") != 0))
		r = errno == ESPIPE ? -ESPIPE : -EIO;
	close(fd);
	return r;
}

static long zero(int r)
{
	return r < 0 ? -errno : 0;
}

static long truncate_file(int dir, const struct op *op)
{
	int fd = openat(dir, op->a, O_WRONLY | O_NONBLOCK | O_NOFOLLOW);
	long r = fd < 0 ? -errno : zero(ftruncate(fd, (off_t)op->offset));

	if (fd >= 0)
		close(fd);
	return r;
}

static long punch_file(int dir, const struct op *op)
{
	int fd = openat(dir, op->a, O_WRONLY | O_NONBLOCK | O_NOFOLLOW);
	/* 3: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; 0: grow */
	long r = fd < 0 ? -errno : zero(fallocate(fd, op->value % 3 ? 3 : 0, (off_t)op->offset, (off_t)op->length));

	if (fd >= 0)
		close(fd);
	return r;
}

static long attribute(int dir, const struct op *op)
{
	char name[32], value[200];
	int fd = openat(dir, op->a, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
	long r;

	if (fd < 0)
		return -errno;
	snprintf(name, sizeof(name), "user.n%u", (unsigned)(op->value % 3));
	memset(value, 'a' + (int)(op->value % 26), sizeof(value));
	r = op->value % 5 == 0 ? zero(fremovexattr(fd, name)) : zero(fsetxattr(fd, name, value, op->value % 200, 0));
	close(fd);
	return r;
}

static long apply(int dir, const struct op *op)
{
	char target[200];

	switch (op->kind) {
	case 0:
	case 1:
		return write_file(dir, op, O_CREAT);
	case 2:
		return write_file(dir, op, O_APPEND);
	case 3:
		return write_file(dir, op, O_CREAT | O_TRUNC);
	case 4:
		return write_file(dir, op, O_CREAT | O_EXCL);
	case 5:
		return truncate_file(dir, op);
	case 6:
		return zero(renameat(dir, op->a, dir, op->b));
	case 7:
		return zero(unlinkat(dir, op->a, 0));
	case 8:
		return zero(mkdirat(dir, op->a, 0755));
	case 9:
		return zero(unlinkat(dir, op->a, AT_REMOVEDIR));
	case 10:
		return zero(linkat(dir, op->a, dir, op->b, 0));
	case 11:
		memset(target, 'x', sizeof(target));
		target[op->value % 2 ? 10 : 150] = 0;
		return zero(symlinkat(target, dir, op->a));
	case 12:
		return faccessat(dir, op->a, F_OK, AT_SYMLINK_NOFOLLOW) ? -errno
		       : zero(fchmodat(dir, op->a, (mode_t)(op->value & 0777) | 0600, 0));
	case 13:
		return attribute(dir, op);
	case 14:
		return zero(mkfifoat(dir, op->a, 0644));
	case 15:
		return punch_file(dir, op);
	case 16:
		return unlink_open(dir, op);
	default:
		return read_file(dir, op);
	}
}

static int complain(const char *path, const char *what)
{
	fprintf(stderr, "%s: %s differs\n", path, what);
	return 1;
}

static int compare_content(const int dirs[2], const char *name, const char *path)
{
	static char a[65536], b[65536];
	int fds[2] = {openat(dirs[0], name, O_RDONLY), openat(dirs[1], name, O_RDONLY)};
	ssize_t n = -1, m = -1;
	int bad = fds[0] < 0 || fds[1] < 0;

	while (!bad && (n = read(fds[0], a, sizeof(a))) >= 0 && (m = read(fds[1], b, sizeof(b))) >= 0) {
		bad = n != m || memcmp(a, b, (size_t)n) != 0;
		if (n == 0)
			break;
	}
	for (int i = 0; !bad && i < 3; i++) {
		char attr[16];

		snprintf(attr, sizeof(attr), "user.n%d", i);
		n = fgetxattr(fds[0], attr, a, sizeof(a));
		m = fgetxattr(fds[1], attr, b, sizeof(b));
		if (n != m || (n > 0 && memcmp(a, b, (size_t)n) != 0))
			bad = complain(path, attr);
	}
	close(fds[0]);
	close(fds[1]);
	return bad ? complain(path, "content") : 0;
}

static int count_entries(int dir)
{
	DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY));
	struct dirent *entry;
	int n = 0;

	while (d && (entry = readdir(d)))
		n += strcmp(entry->d_name, "lost+found") != 0;
	if (d)
		closedir(d);
	return n;
}

static int compare_trees(int a, int b, const char *prefix)
{
	DIR *d = fdopendir(dup(a));
	struct dirent *entry;
	int bad = 0;

	if (count_entries(a) != count_entries(b))
		bad |= complain(prefix, "number of entries");
	rewinddir(d);
	while ((entry = readdir(d))) {
		const char *name = entry->d_name;
		char path[4096], left[4096] = "", right[4096] = "";
		int dirs[2] = {a, b};
		struct stat x, y;

		if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "lost+found"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", prefix, name);
		if (fstatat(a, name, &x, AT_SYMLINK_NOFOLLOW) || fstatat(b, name, &y, AT_SYMLINK_NOFOLLOW)) {
			bad |= complain(path, "existence");
			continue;
		}
		if (x.st_mode != y.st_mode)
			bad |= complain(path, "mode");
		if (x.st_nlink != y.st_nlink)
			bad |= complain(path, "number of links");
		if (x.st_uid != y.st_uid || x.st_gid != y.st_gid)
			bad |= complain(path, "owner");
		if (!S_ISDIR(x.st_mode) && x.st_size != y.st_size)
			bad |= complain(path, "size");
		if (S_ISREG(x.st_mode) &&
		    (x.st_mtim.tv_sec != y.st_mtim.tv_sec || x.st_mtim.tv_nsec != y.st_mtim.tv_nsec))
			bad |= complain(path, "time");
		if (S_ISREG(x.st_mode))
			bad |= compare_content(dirs, name, path);
		if (S_ISLNK(x.st_mode) && (readlinkat(a, name, left, sizeof(left) - 1) != readlinkat(b, name, right,
		                           sizeof(right) - 1) || strcmp(left, right) != 0))
			bad |= complain(path, "link");
		if (S_ISDIR(x.st_mode) && S_ISDIR(y.st_mode)) {
			int c = openat(a, name, O_RDONLY | O_DIRECTORY), e = openat(b, name, O_RDONLY | O_DIRECTORY);

			bad |= compare_trees(c, e, path);
			close(c);
			close(e);
		}
	}
	closedir(d);
	return bad;
}

/* Times that both trees can be compared by. */
static void set_times(int dir, uint64_t salt)
{
	DIR *d = fdopendir(dup(dir));
	struct dirent *entry;

	while ((entry = readdir(d))) {
		struct stat stat;
		struct timespec times[2] = {{1, 0}, {0, 0}};

		if (entry->d_name[0] == '.' || !strcmp(entry->d_name, "lost+found") ||
		    fstatat(dir, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW))
			continue;
		/* The same for every name of a file, and beyond 2038 for some. */
		times[1].tv_sec = (time_t)(salt + (uint64_t)stat.st_size * 4096 % 6000000000u);
		times[1].tv_nsec = stat.st_size * 7919 % 1000000000;
		if (old_times)
			times[1] = (struct timespec){times[1].tv_sec % INT32_MAX, 0};
		utimensat(dir, entry->d_name, times, AT_SYMLINK_NOFOLLOW);
		if (S_ISDIR(stat.st_mode)) {
			int fd = openat(dir, entry->d_name, O_RDONLY | O_DIRECTORY);

			set_times(fd, salt);
			close(fd);
		}
	}
	closedir(d);
}

static int run(uint64_t seed, unsigned long count, const int dirs[2])
{
	state = seed * 2654435761u + 88172645463325252u;
	for (unsigned long i = 0; i < count; i++) {
		struct op op;
		long a, b;

		random_op(&op);
		a = apply(dirs[0], &op);
		b = a == -EOPNOTSUPP ? a : apply(dirs[1], &op);
		if (a != b && b != -EOPNOTSUPP) {
			fprintf(stderr, "seed %llu, step %lu: operation %u on '%s', '%s' (%llu, %llu, %llu): %ld in %s, %ld in %s\n",
			        (unsigned long long)seed, i, op.kind, op.a, op.b, (unsigned long long)op.offset,
			        (unsigned long long)op.length, (unsigned long long)op.value, a, roots[0], b, roots[1]);
			return 1;
		}
		if (b == -EOPNOTSUPP && op.kind == 13) {
			fprintf(stderr, "one of the folders has no extended attributes: choose others\n");
			return 77;
		}
	}
	for (int i = 0; i < 2; i++)
		set_times(dirs[i], seed % 1000);
	return 0;
}

int main(int argc, char **argv)
{
	bool running = argc == 6 && strncmp(argv[1], "run", 3) == 0;
	int dirs[2], r = 0;

	if (!running && !(argc == 4 && strcmp(argv[1], "compare") == 0)) {
		fprintf(stderr, "usage: fs-exercise run SEED COUNT DIR DIR | fs-exercise compare DIR DIR\n");
		return 2;
	}
	old_times = running && strcmp(argv[1], "run-old-times") == 0;
	umask(022);
	for (int i = 0; i < 2; i++) {
		roots[i] = argv[argc - 2 + i];
		dirs[i] = open(roots[i], O_RDONLY | O_DIRECTORY);
		if (dirs[i] < 0) {
			perror(roots[i]);
			return 2;
		}
	}
	if (running)
		r = run(strtoull(argv[2], NULL, 10), strtoul(argv[3], NULL, 10), dirs);
	return r ? r : compare_trees(dirs[0], dirs[1], ".") | compare_trees(dirs[1], dirs[0], ".");
}
