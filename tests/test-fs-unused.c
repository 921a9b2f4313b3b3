/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The client of vhd-fs-unused: what it believes, and what becomes of helpers that fail, lie, hang or are not there. */

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/temp-dir.h"
#include "vhd/fs-unused.h"

#define HEAD "format 1\nfile 1 2 3 4 5\ndisk 1048576\n"
#define VOLUMES "partition 1 ext4 4096 65536 8192\npartition 5 ntfs 69632 65536 512\npartition 6 ext2 524288 4096 0\n"

static int parse(const char *text, struct fs_unused *ret)
{
	struct fs_unused_parser parser = {.ret = ret};
	char *copy = strdup(text), *line = copy, *end;
	struct err err = {.text = ""};
	int e = 0;

	assert_non_null(copy);
	*ret = (struct fs_unused){0};
	for (; !e && (end = strchr(line, '\n')); line = end + 1) {
		*end = 0;
		e = fs_unused_parse_line(&parser, line, &err);
	}
	if (!e)
		e = fs_unused_parse_end(&parser, &err);
	assert_true(!e || strlen(err.text) > 20);
	free(copy);
	return e;
}

static void a_list_is_read(void **state)
{
	struct fs_unused u;

	(void)state;
	assert_int_equal(parse(HEAD VOLUMES "4096 512\n8192 4096\n65536 8192\nend 3\n", &u), 0);
	assert_int_equal(u.disk_size, 1048576);
	assert_int_equal(u.file_count, 1);
	assert_int_equal(u.files[0].inode, 2);
	assert_int_equal(u.files[0].changed_ns, 5);
	assert_int_equal(u.volume_count, 3);
	assert_string_equal(u.volumes[1].type, "ntfs");
	assert_int_equal(u.volumes[1].partition, 5);
	assert_int_equal(u.extent_count, 3);
	assert_int_equal(u.extents[1].offset, 8192);
	/* From one file system into the next: they touch. */
	assert_int_equal(u.extents[2].length, 8192);
	fs_unused_done(&u);
	assert_int_equal(parse(HEAD "end 0\n", &u), 0);
	assert_int_equal(u.extent_count, 0);
	fs_unused_done(&u);
}

static void what_makes_no_sense_is_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"format 2\n",
		"end 0\n",
		HEAD,
		HEAD VOLUMES "4096 512\n",
		HEAD VOLUMES "4096 512\nend 2\n",
		HEAD VOLUMES "4096 512\nend 1\nend 1\n",
		HEAD VOLUMES "4096 512\nend 1 \n",
		HEAD VOLUMES "4096 512\nend 1\n8192 512\n",
		HEAD VOLUMES "4096 0\nend 1\n",
		HEAD VOLUMES "4096\nend 1\n",
		HEAD VOLUMES "4096 512 \nend 1\n",
		HEAD VOLUMES "4096 512 512\nend 1\n",
		HEAD VOLUMES "4096  512\nend 1\n",
		HEAD VOLUMES "+4096 512\nend 1\n",
		HEAD VOLUMES "-4096 512\nend 1\n",
		HEAD VOLUMES "0x1000 512\nend 1\n",
		HEAD VOLUMES "4097 512\nend 1\n",
		HEAD VOLUMES "4096 513\nend 1\n",
		HEAD VOLUMES "18446744073709551616 512\nend 1\n",
		HEAD VOLUMES "18446744073709551104 1024\nend 1\n",
		HEAD VOLUMES "4096 18446744073709551104\nend 1\n",
		HEAD VOLUMES "1048576 512\nend 1\n",
		HEAD VOLUMES "8192 512\n4096 512\nend 2\n",
		HEAD VOLUMES "4096 1024\n4608 512\nend 2\n",
		HEAD VOLUMES "4096 512\n4608 512\nend 2\n",
		HEAD VOLUMES "0 512\nend 1\n",
		HEAD VOLUMES "3584 1024\nend 1\n",
		HEAD VOLUMES "134656 1024\nend 1\n",
		HEAD VOLUMES "262144 512\nend 1\n",
		HEAD VOLUMES "69632 524288\nend 1\n",
		HEAD "4096 512\nend 1\n",
		"format 1\ndisk 1048576\nend 0\n",
		"format 1\nfile 1 2 3 4\ndisk 1048576\nend 0\n",
		"format 1\nfile 1 2 3 4 18446744073709551615\ndisk 1048576\nend 0\n",
		"format 1\nfile 1 2 3 4 5\ndisk 0\nend 0\n",
		HEAD "disk 1048576\nend 0\n",
		HEAD "file 1 2 3 4 5\nend 0\n",
		HEAD VOLUMES "4096 512\npartition 7 ext4 786432 4096 0\nend 1\n",
		HEAD "partition 1 fat 4096 65536 512\nend 0\n",
		HEAD "partition 1 ext 4096 65536 512\nend 0\n",
		HEAD "partition 1 ext4 4096 65536\nend 0\n",
		HEAD "partition 1 ext4 4096 65536 65537\nend 0\n",
		HEAD "partition 1 ext4 4096 2097152 0\nend 0\n",
		HEAD "partition 1 ext4 4096 65536 0\npartition 2 ext4 8192 65536 0\nend 0\n",
		HEAD "hello\nend 0\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct fs_unused u;
		int e = parse(texts[i], &u);

		if (e != -EPROTO)
			fail_msg("returned %d for: %s", e, texts[i]);
		fs_unused_done(&u);
	}
}

struct scene {
	char *dir;
	char helper[PATH_MAX];
	unsigned notes;
	char note[1024];
	struct err err;
};

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));

	if (!s)
		return -1;
	s->dir = temp_dir_new("fs-unused");
	snprintf(s->helper, sizeof(s->helper), "%s/helper", s->dir);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct scene *s = *state;

	temp_dir_free(s->dir);
	free(s);
	return 0;
}

static void note(void *user, const char *sentence)
{
	struct scene *s = user;

	s->notes++;
	snprintf(s->note, sizeof(s->note), "%s", sentence);
}

/* A helper that does what `script` says. */
static int run(struct scene *s, const char *script, struct fs_unused *ret)
{
	struct fs_unused_options options = {.helper = s->helper, .timeout_seconds = 2, .note = note, .user = s,
	                                    .parent = "the parent",
	                                    .allow_dirs = (const char *const[]){"one", "two", NULL}};
	FILE *file = fopen(s->helper, "w");

	assert_non_null(file);
	fprintf(file, "#!/bin/sh\nset -f\n%s\n", script);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(chmod(s->helper, 0700), 0);
	s->notes = 0;
	s->err.text[0] = 0;
	return fs_unused_read("-disk.vhd", &options, ret, &s->err);
}

#define SAYS(text) "cat <<'END'\n" text "END\n"

static void a_helper_is_run_with_the_chain_s_options(void **state)
{
	struct scene *s = *state;
	struct fs_unused u;

	assert_int_equal(run(s, "[ \"$*\" = '--parent the parent --allow-dir one --allow-dir two -- -disk.vhd' ] || exit 1\n"
	                     "echo 'vhd-fs-unused: a word' >&2; printf 'no\\033 newline' >&2\n"
	                     SAYS(HEAD VOLUMES "8192 4096\nend 1\n"), &u), 0);
	assert_int_equal(u.extent_count, 1);
	assert_int_equal(u.extents[0].offset, 8192);
	assert_int_equal(s->notes, 2);
	assert_string_equal(s->note, "no? newline");
	fs_unused_done(&u);
}

static void a_helper_that_fails_is_quoted(void **state)
{
	struct scene *s = *state;
	struct fs_unused u;

	assert_int_equal(run(s, "echo 'vhd-fs-unused: warning: odd' >&2; echo 'vhd-fs-unused: x.vhd: in use' >&2; exit 1", &u),
	                 -EIO);
	assert_string_equal(s->err.text, "x.vhd: in use");
	assert_int_equal(s->notes, 1);
	assert_string_equal(s->note, "warning: odd");
	assert_null(u.extents);
	assert_int_equal(run(s, "exit 3", &u), -EIO);
	assert_non_null(strstr(s->err.text, "did not say why"));
	/* A whole list does not help who failed. */
	assert_int_equal(run(s, SAYS(HEAD VOLUMES "8192 4096\nend 1\n") "exit 1", &u), -EIO);
	assert_null(u.extents);
}

static void a_helper_that_crashes_stops_or_lies_gives_no_list(void **state)
{
	struct scene *s = *state;
	struct fs_unused u;

	assert_int_equal(run(s, SAYS(HEAD VOLUMES "8192 4096\nend 1\n") "kill -SEGV $$", &u), -EIO);
	assert_non_null(strstr(s->err.text, "crashed"));
	assert_int_equal(run(s, SAYS(HEAD VOLUMES "8192 4096\n") "kill -XCPU $$", &u), -EIO);
	assert_non_null(strstr(s->err.text, "too long"));
	assert_int_equal(run(s, SAYS(HEAD VOLUMES "8192 4096\n"), &u), -EPROTO);
	assert_non_null(strstr(s->err.text, "before the end"));
	assert_int_equal(run(s, SAYS(HEAD VOLUMES "8192 4096\n") "printf 'end 1'", &u), -EPROTO);
	assert_int_equal(run(s, SAYS(HEAD VOLUMES "8192 4096\nend 1\n") "printf more", &u), -EPROTO);
	assert_int_equal(run(s, SAYS(HEAD VOLUMES "0 4096\nend 1\n") "exec sleep 10", &u), -EPROTO);
	assert_int_equal(run(s, "yes | tr -d '\\n'", &u), -EPROTO);
	assert_non_null(strstr(s->err.text, "too long"));
	assert_int_equal(run(s, "printf 'format 1\\0\\n'", &u), -EPROTO);
	assert_null(u.files);
}

static void a_helper_that_hangs_is_ended(void **state)
{
	struct scene *s = *state;
	struct fs_unused u;

	assert_int_equal(run(s, "exec sleep 30", &u), -ETIMEDOUT);
	assert_int_equal(run(s, SAYS(HEAD "end 0\n") "exec sleep 30 > /dev/null 2> /dev/null", &u), -ETIMEDOUT);
}

static void sentences_without_end_do_not_fill_memory(void **state)
{
	struct scene *s = *state;
	struct fs_unused u;

	assert_int_equal(run(s, "yes hello | head -n 5000 >&2; yes | tr -d '\\n' | head -c 1000000 >&2\n" SAYS(HEAD "end 0\n"),
	                     &u), 0);
	assert_true(s->notes > 10 && s->notes < 1000);
	fs_unused_done(&u);
}

static void a_helper_that_is_not_there_is_named(void **state)
{
	const struct fs_unused_options options = {.helper = "/nowhere/vhd-fs-unused"};
	struct fs_unused u;
	struct err err;

	(void)state;
	assert_int_equal(fs_unused_read("x.vhd", &options, &u, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/vhd-fs-unused"));
}

static void read_identity(const char *path, struct fs_unused *u, struct fs_unused_file *file, uint64_t size)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	*file = (struct fs_unused_file){st.st_dev, st.st_ino, (uint64_t)st.st_size,
	                                (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
	                                (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec};
	*u = (struct fs_unused){.files = file, .file_count = 1, .disk_size = size};
}

static void a_list_holds_while_the_files_are_as_they_were(void **state)
{
	struct scene *s = *state;
	const struct vhd_create_options create = {.size_bytes = 4 << 20};
	const struct vhd_open_options open_options = {.flags = VHD_OPEN_WRITE};
	struct fs_unused_file file;
	struct blk_queue *queue;
	struct fs_unused u;
	struct vhd *vhd;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/disk.vhd", s->dir);
	assert_int_equal(vhd_create(path, &create, &s->err), 0);
	read_identity(path, &u, &file, 4 << 20);
	assert_int_equal(vhd_open(path, &open_options, &vhd, &s->err), 0);
	assert_int_equal(fs_unused_still_holds(&u, vhd, &s->err), 0);
	u.disk_size++;
	assert_int_equal(fs_unused_still_holds(&u, vhd, &s->err), -ESTALE);
	u.disk_size--;
	u.file_count = 2;
	assert_int_equal(fs_unused_still_holds(&u, vhd, &s->err), -ESTALE);
	u.file_count = 1;
	assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, &s->err), 0);
	assert_int_equal(blk_pwrite(queue, "changed", 7, 0), 0);
	blk_queue_free(queue);
	assert_int_equal(vhd_close(vhd, &s->err), 0);
	assert_int_equal(vhd_open(path, &open_options, &vhd, &s->err), 0);
	assert_int_equal(fs_unused_still_holds(&u, vhd, &s->err), -ESTALE);
	assert_non_null(strstr(s->err.text, "disk.vhd"));
	read_identity(path, &u, &file, 4 << 20);
	assert_int_equal(fs_unused_still_holds(&u, vhd, &s->err), 0);
	file.modified_ns--;
	assert_int_equal(fs_unused_still_holds(&u, vhd, &s->err), -ESTALE);
	file.modified_ns++;
	file.inode++;
	assert_int_equal(fs_unused_still_holds(&u, vhd, &s->err), -ESTALE);
	assert_int_equal(vhd_close(vhd, &s->err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_is_read),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test_setup_teardown(a_helper_is_run_with_the_chain_s_options, setup, teardown),
		cmocka_unit_test_setup_teardown(a_helper_that_fails_is_quoted, setup, teardown),
		cmocka_unit_test_setup_teardown(a_helper_that_crashes_stops_or_lies_gives_no_list, setup, teardown),
		cmocka_unit_test_setup_teardown(a_helper_that_hangs_is_ended, setup, teardown),
		cmocka_unit_test_setup_teardown(sentences_without_end_do_not_fill_memory, setup, teardown),
		cmocka_unit_test(a_helper_that_is_not_there_is_named),
		cmocka_unit_test_setup_teardown(a_list_holds_while_the_files_are_as_they_were, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
