/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/temp-dir.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

char *temp_dir_new(const char *name)
{
	const char *base = getenv("TMPDIR");
	char *template, *path;

	if (asprintf(&template, "%s/vhdkit-%s.XXXXXX", base && *base ? base : "/tmp", name) < 0)
		abort();
	if (!mkdtemp(template) || !(path = realpath(template, NULL))) {
		perror(template);
		abort();
	}
	free(template);
	return path;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

void temp_dir_free(char *path)
{
	if (path)
		nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(path);
}
