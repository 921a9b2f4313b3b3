/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A load for file systems that are about to crash, and what must be there afterwards.
 * Usage: fs-crash load SEED DIR LOG | fs-crash verify DIR LOG
 * `load` creates, overwrites, appends to and deletes files until DIR fails, and notes in LOG, which must be elsewhere,
 * what it is about to do and what was made durable. `verify` compares, and then tells how many files it has compared.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FILES 160u
#define FOLDERS 4u
#define SIZE_MAX_BYTES (700u << 10)

struct known {
	enum { UNKNOWN, SYNCED, APPENDING, GONE } state;
	unsigned version;
	size_t size;
};

static struct known known[FILES];
static int dir, note_fd;
static uint64_t state;

static uint64_t rnd(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static void path_of(unsigned id, char *ret, size_t size)
{
	snprintf(ret, size, "d%u/a-file-with-a-name-that-fills-its-folder-%0*u", id % FOLDERS, (int)(id % 90 + 1), id);
}

/* No two blocks of any file or version alike. */
static void fill(unsigned id, unsigned version, size_t from, size_t length, uint8_t *ret)
{
	for (size_t i = 0; i < length; i++) {
		size_t at = from + i;

		ret[i] = (uint8_t)(((id * 2654435761u + version) * 2654435761u + (uint32_t)(at >> 6)) * 2246822519u >> 24);
	}
}

/* Before: the state that holds from here on; after a sync: what is on disk. */
static void note(char what, unsigned id, unsigned version, size_t size)
{
	char line[80];
	int n = snprintf(line, sizeof(line), "%c %u %u %zu\n", what, id, version, size);

	if (write(note_fd, line, (size_t)n) != n) {
		perror("log");
		exit(2);
	}
}

static bool put(int fd, unsigned id, unsigned version, size_t from, size_t length)
{
	uint8_t *data = malloc(length);
	bool good = data != NULL;
	size_t done = 0;

	if (good)
		fill(id, version, from, length, data);
	while (good && done < length) {
		ssize_t n = pwrite(fd, data + done, length - done, (off_t)(from + done));

		good = n > 0;
		done += n > 0 ? (size_t)n : 0;
	}
	free(data);
	return good;
}

static bool sync_folder(unsigned id)
{
	char name[8];
	int fd, e;

	snprintf(name, sizeof(name), "d%u", id % FOLDERS);
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY);
	e = fd < 0 ? -1 : fsync(fd);
	if (fd >= 0)
		close(fd);
	return e == 0;
}

static void change(unsigned id)
{
	struct known *k = &known[id];
	unsigned kind = (unsigned)rnd(8);
	size_t length = 1 + (rnd(3) ? rnd(20000) : rnd(SIZE_MAX_BYTES / 2));
	bool good, append = kind >= 5 && (k->state == SYNCED || k->state == APPENDING) &&
	                    k->size + length < SIZE_MAX_BYTES;
	char path[256];
	int fd;

	path_of(id, path, sizeof(path));
	if (kind <= 1) {
		k->state = UNKNOWN;
		note('M', id, 0, 0);
		if (unlinkat(dir, path, 0) == 0 && rnd(3) == 0 && sync_folder(id)) {
			note('D', id, 0, 0);
			k->state = GONE;
		}
		return;
	}
	if (append && k->state == SYNCED)
		note('A', id, 0, 0);
	else if (!append)
		note('M', id, 0, 0);
	if (!append) {
		k->version++;
		k->size = 0;
		if (rnd(4) == 0)
			unlinkat(dir, path, 0);
	}
	k->state = append ? APPENDING : UNKNOWN;
	fd = openat(dir, path, O_WRONLY | O_CREAT | (append ? 0 : O_TRUNC), 0644);
	good = fd >= 0 && put(fd, id, k->version, k->size, length);
	if (good) {
		k->size += length;
		if (rnd(8) == 0 && fsync(fd) == 0) {
			note('S', id, k->version, k->size);
			k->state = SYNCED;
		}
	} else {
		k->state = UNKNOWN;
		note('M', id, 0, 0);
		/* Room for others, if it is full. */
		unlinkat(dir, path, 0);
	}
	if (fd >= 0)
		close(fd);
}

static int load(uint64_t seed)
{
	state = seed * 2654435761u + 88172645463325252u;
	for (unsigned i = 0; i < FOLDERS; i++) {
		char name[8];

		snprintf(name, sizeof(name), "d%u", i);
		mkdirat(dir, name, 0755);
	}
	/* What is cached of a dead file system goes on to answer; this asks. */
	while (fstatvfs(dir, &(struct statvfs){0}) == 0 || (errno != ENOTCONN && errno != ECONNABORTED))
		for (unsigned i = 0; i < 20; i++)
			change((unsigned)rnd(FILES));
	return 0;
}

static bool check_file(unsigned id, const struct known *k)
{
	uint8_t *found = malloc(k->size + 1), *wanted = malloc(k->size + 1);
	char path[256];
	size_t size = 0;
	ssize_t n = 1;
	bool good;
	int fd;

	path_of(id, path, sizeof(path));
	fd = openat(dir, path, O_RDONLY);
	if (k->state == GONE) {
		if (fd >= 0)
			fprintf(stderr, "%s: was deleted and that synced, and is there\n", path);
		good = fd < 0;
		goto done;
	}
	while (fd >= 0 && n > 0 && size <= k->size && found) {
		n = read(fd, found + size, k->size + 1 - size);
		size += n > 0 ? (size_t)n : 0;
	}
	good = fd >= 0 && n >= 0 && found && wanted && (k->state == SYNCED ? size == k->size : size >= k->size);
	if (!good)
		fprintf(stderr, "%s: was synced with %zu bytes, and %s, %zu bytes\n", path, k->size,
		        fd < 0 ? "is lost" : "differs", size);
	if (good) {
		fill(id, k->version, 0, k->size, wanted);
		good = memcmp(found, wanted, k->size) == 0;
		for (size_t i = 0; !good && i < k->size; i++)
			if (found[i] != wanted[i]) {
				fprintf(stderr, "%s: was synced with %zu bytes, and differs at %zu\n", path, k->size, i);
				break;
			}
	}
done:
	if (fd >= 0)
		close(fd);
	free(found);
	free(wanted);
	return good;
}

static int verify(FILE *log)
{
	unsigned id, version, bad = 0, compared = 0;
	size_t size;
	char what;

	while (fscanf(log, "%c %u %u %zu\n", &what, &id, &version, &size) == 4) {
		struct known *k = &known[id % FILES];

		if (what == 'S')
			*k = (struct known){SYNCED, version, size};
		else if (what == 'A' && k->state == SYNCED)
			k->state = APPENDING;
		else
			k->state = what == 'D' ? GONE : UNKNOWN;
	}
	for (id = 0; id < FILES; id++)
		if (known[id].state != UNKNOWN) {
			compared++;
			bad += !check_file(id, &known[id]);
		}
	printf("%u\n", compared);
	return bad ? 1 : 0;
}

int main(int argc, char **argv)
{
	bool loading = argc == 5 && strcmp(argv[1], "load") == 0;
	FILE *log;

	if (!loading && !(argc == 4 && strcmp(argv[1], "verify") == 0)) {
		fprintf(stderr, "usage: fs-crash load SEED DIR LOG | fs-crash verify DIR LOG\n");
		return 2;
	}
	dir = open(argv[argc - 2], O_RDONLY | O_DIRECTORY);
	log = fopen(argv[argc - 1], loading ? "a" : "r");
	if (dir < 0 || !log) {
		perror(dir < 0 ? argv[argc - 2] : argv[argc - 1]);
		return 2;
	}
	note_fd = fileno(log);
	return loading ? load(strtoull(argv[2], NULL, 10)) : verify(log);
}
