/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The footers alone that the collection of real images holds (rows FRAGMENT of its INDEX.tsv), held against what it
 * says of them. Looked for in $VHDKIT_IMAGES, else in ../shared/images beside the source; skipped without it.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "vhd/format.h"

#define COLUMNS 12

enum { FILE_NAME, TYPE, CREATOR, CREATED, SIZE, NOTES = 11 };

static const char *folder(void)
{
	static char path[1024];
	const char *given = getenv("VHDKIT_IMAGES"), *srcdir = getenv("VHDKIT_SRCDIR");

	if (given)
		return given;
	snprintf(path, sizeof(path), "%s/../shared/images", srcdir ? srcdir : ".");
	return path;
}

static void index_path(char *ret, size_t size)
{
	snprintf(ret, size, "%s/INDEX.tsv", folder());
}

static void check_fragment(char **column)
{
	struct footer_disk disk;
	struct footer footer;
	struct err err = {.text = ""};
	char path[2048], text[64], creator[8] = "", want[8] = "";
	unsigned cylinders, heads, sectors;
	uint8_t uuid[16];
	time_t created;
	struct tm tm;
	bool sound = strstr(column[NOTES], "checksum_ok=True") != NULL;
	const char *at;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder(), column[FILE_NAME]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, &disk, sizeof(disk)), sizeof(disk));
	close(fd);

	if (!sound) {
		assert_int_equal(footer_decode(&disk, false, &footer, &err), VHD_E_CORRUPT);
		assert_non_null(strstr(err.text, "checksum"));
	} else if (footer_decode(&disk, false, &footer, &err)) {
		fail_msg("%s: %s", column[FILE_NAME], err.text);
	}
	assert_int_equal(footer_decode(&disk, true, &footer, &err), 0);
	assert_int_equal(footer.current_size, strtoull(column[SIZE], NULL, 10));
	assert_non_null(strstr(column[TYPE], vhd_type_name(footer.type)));

	created = (time_t)footer.time_stamp + VHD_EPOCH;
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", gmtime_r(&created, &tm));
	assert_string_equal(text, column[CREATED]);

	/* "'win ' 6.1 os='Wi2k'"; a NUL is shown as \x00. */
	memcpy(creator, footer.creator, 4);
	memcpy(want, column[CREATOR] + 1, 4);
	if (!memcmp(column[CREATOR] + 4, "\\x00", 4))
		want[3] = 0;
	assert_memory_equal(creator, want, 4);
	snprintf(text, sizeof(text), " %u.%u ", footer.creator_version >> 16, footer.creator_version & 0xffff);
	assert_non_null(strstr(column[CREATOR], text));

	at = strstr(column[NOTES], "chs=(");
	assert_int_equal(sscanf(at, "chs=(%u, %u, %u)", &cylinders, &heads, &sectors), 3);
	assert_int_equal(footer.geometry.cylinders, cylinders);
	assert_int_equal(footer.geometry.heads, heads);
	assert_int_equal(footer.geometry.sectors_per_track, sectors);
	at = strstr(column[NOTES], "uuid=") + 5;
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(sscanf(at + 2 * i, "%2hhx", &uuid[i]), 1);
	assert_memory_equal(footer.uuid, uuid, 16);
}

static void real_footers_decode_as_their_index_says(void **state)
{
	char path[1100], line[4096];
	unsigned fragments = 0;
	FILE *file;

	(void)state;
	index_path(path, sizeof(path));
	file = fopen(path, "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		char *column[COLUMNS], *rest = line;
		unsigned n = 0;

		while (n < COLUMNS && rest)
			column[n++] = strsep(&rest, "\t");
		if (n < COLUMNS || strncmp(column[TYPE], "FRAGMENT footer", 15))
			continue;
		check_fragment(column);
		fragments++;
	}
	fclose(file);
	assert_true(fragments > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_footers_decode_as_their_index_says),
	};
	char path[1100];

	index_path(path, sizeof(path));
	if (access(path, R_OK)) { /* cmocka's own skip() counts as failed in TAP */
		printf("1..0 # SKIP no collection of real images at %s (set VHDKIT_IMAGES)\n", folder());
		return 0;
	}
	return cmocka_run_group_tests_name("real footers", tests, NULL, NULL);
}
