/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a fuzz target over its corpus, for builds without libFuzzer: each file is a case, told as TAP. The corpus of
 * fuzz-<what> is tests/fuzz/corpus/<what>/, or the files and folders given.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int cases;

static int file_replay(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = NULL;
	size_t size = 0, room = 0, got;

	if (!file) {
		printf("not ok %d - %s: %s\n", ++cases, path, strerror(errno));
		return 1;
	}
	do {
		if (size == room) {
			room = room ? 2 * room : 65536;
			data = realloc(data, room);
			if (!data)
				abort();
		}
		got = fread(data + size, 1, room - size, file);
		size += got;
	} while (got);
	fclose(file);
	/* A copy of the exact size, so that ASan sees reads past the end. */
	uint8_t *exact = malloc(size ? size : 1);
	if (!exact)
		abort();
	memcpy(exact, data, size);
	free(data);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	printf("ok %d - %s\n", ++cases, strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
	fflush(stdout);
	return 0;
}

static int path_replay(const char *path)
{
	struct dirent **names;
	struct stat st;
	int n, failed = 0;

	if (stat(path, &st) || !S_ISDIR(st.st_mode))
		return file_replay(path);
	n = scandir(path, &names, NULL, alphasort);
	if (n < 0) {
		printf("not ok %d - %s: %s\n", ++cases, path, strerror(errno));
		return 1;
	}
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.') {
			char *file;

			if (asprintf(&file, "%s/%s", path, names[i]->d_name) < 0)
				abort();
			failed += path_replay(file);
			free(file);
		}
		free(names[i]);
	}
	free(names);
	return failed;
}

int main(int argc, char **argv)
{
	const char *srcdir = getenv("VHDKIT_SRCDIR");
	const char *what = strrchr(argv[0], '/');
	int failed = 0;

	if (argc > 1) {
		for (int i = 1; i < argc; i++)
			failed += path_replay(argv[i]);
	} else {
		char *path;

		/* libtool's wrapper runs the program as lt-fuzz-<what>. */
		what = strstr(what ? what : argv[0], "fuzz-");
		if (asprintf(&path, "%s/tests/fuzz/corpus/%s", srcdir ? srcdir : ".", what ? what + 5 : "") < 0)
			abort();
		failed = path_replay(path);
		free(path);
	}
	if (!cases) {
		printf("not ok 1 - the corpus is empty\n1..1\n");
		return 1;
	}
	printf("1..%d\n", cases);
	return failed != 0;
}
