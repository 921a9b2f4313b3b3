/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#define READ_MAX (UINT64_C(16) << 20) /* of a disk that is not what its image says */
#define SECONDS_MAX 30
#define RSS_MAX_KIB (256 * 1024)      /* for images of a few KiB; sanitizers take most of it */

struct told {
	unsigned count, damages;
	const char *want; /* a warning that has to come */
	bool got;
};

static const char *row_name;

static void fail_row(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", row_name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}

static void on_warning(void *user, const char *sentence)
{
	struct told *told = user;

	if (!sentence || !*sentence || strchr(sentence, '\n'))
		fail_row("a warning is no sentence");
	told->count++;
	if (told->want && strstr(sentence, told->want))
		told->got = true;
}

static void on_defect(void *user, const struct vhd_defect *defect)
{
	struct told *told = user;

	if (!defect->code || !*defect->code || !defect->sentence || !*defect->sentence || !defect->path)
		fail_row("a defect lacks its code, sentence or path");
	told->count++;
	told->damages += defect->severity == VHD_DAMAGE;
}

static uint8_t *file_load(const char *path, size_t *ret_size)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *bytes;

	if (fd < 0 || fstat(fd, &st))
		fail_row("%s: %s", path, strerror(errno));
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes || read(fd, bytes, (size_t)st.st_size) != st.st_size)
		fail_row("%s: cannot be read back", path);
	close(fd);
	*ret_size = (size_t)st.st_size;
	return bytes;
}

/* What the row's disk has to read as; allocated. A fixed disk is what its file says, whatever its guest wrote. */
static uint8_t *content_expected(const struct hostile_row *row, const struct image_spec *spec,
                                 const struct image *image)
{
	uint8_t *bytes = calloc(1, spec->size + 1);

	if (!bytes)
		abort();
	if (spec->type == IMAGE_FIXED) {
		memcpy(bytes, image->bytes, spec->size);
	} else if (row->base) {
		uint8_t *base = malloc(row->base->size + 1);

		if (!base)
			abort();
		image_content(row->base, base);
		memcpy(bytes, base, spec->size < row->base->size ? spec->size : row->base->size);
		free(base);
		image_overlay(spec, bytes);
	} else {
		image_content(spec, bytes);
	}
	return bytes;
}

/* Reads and maps the whole disk, or its start. `expected` NULL: whatever comes, but in order. */
static void disk_read(struct blk *blk, const uint8_t *expected, uint64_t expected_size)
{
	struct blk_info info;
	struct blk_queue *queue;
	struct err err;
	uint64_t length, done = 0;
	uint8_t buffer[4096];

	blk_info(blk, &info);
	if (expected && info.size != expected_size)
		fail_row("the disk has %llu bytes instead of %llu", (unsigned long long)info.size,
		         (unsigned long long)expected_size);
	if (!info.read_only)
		fail_row("opened for reading, it says that it can be written");
	length = info.size < READ_MAX ? info.size : READ_MAX;
	if (blk_queue_new(blk, NULL, &queue, &err))
		fail_row("no queue: %s", err.text);
	while (done < length) {
		size_t n = length - done < sizeof(buffer) ? (size_t)(length - done) : sizeof(buffer);
		int result = blk_pread(queue, buffer, n, done);

		if (expected && result)
			fail_row("reading at %llu gives %d", (unsigned long long)done, result);
		if (expected && memcmp(buffer, expected + done, n))
			fail_row("the %zu bytes at %llu are wrong", n, (unsigned long long)done);
		if (result > 0)
			fail_row("reading at %llu gives %d, which is no -errno", (unsigned long long)done, result);
		done += n;
	}
	for (done = 0; done < length;) {
		struct blk_extent extents[8];
		int count = blk_map(blk, done, info.size - done, extents, 8, &err);

		if (count < 0 && !expected)
			break;
		if (count < 1 || count > 8)
			fail_row("blk_map at %llu gives %d", (unsigned long long)done, count);
		for (int i = 0; i < count; i++) {
			if (extents[i].offset != done || !extents[i].length || extents[i].length > info.size - done)
				fail_row("the map has a hole or turns back at %llu", (unsigned long long)done);
			done += extents[i].length;
		}
		blk_unmap(blk);
	}
	blk_queue_free(queue);
}

static void check_open(const struct hostile_row *row, const char *path, const struct vhd_open_options *options,
                       const struct image_spec *spec, const struct image *image)
{
	struct told *told = options->user;
	struct err err = {.text = ""};
	struct vhd *vhd = NULL;
	uint8_t *expected;
	int result = vhd_open(path, options, &vhd, &err);

	if (result) {
		if (row->expect == 0)
			fail_row("refused (%d): %s", result, err.text);
		if (row->expect > HOSTILE_REFUSED && row->expect != result)
			fail_row("verdict %d instead of %d: %s", result, row->expect, err.text);
		if (!strstr(err.text, "/"))
			fail_row("the sentence names no file: %s", err.text);
		if (row->needle && !strstr(err.text, row->needle))
			fail_row("the sentence does not say \"%s\": %s", row->needle, err.text);
		return;
	}
	if (row->expect && row->expect != HOSTILE_EITHER)
		fail_row("opened, though it should be refused (%d, %s)", row->expect, row->needle);
	expected = content_expected(row, spec, image);
	disk_read(vhd_blk(vhd), expected, spec->size);
	free(expected);
	if (row->warning && !told->got)
		fail_row("no warning says \"%s\"", row->warning);
	if (vhd_close(vhd, &err))
		fail_row("closing failed: %s", err.text);
}

static void check_salvage(const struct hostile_row *row, const char *path, struct vhd_open_options options)
{
	struct err err = {.text = ""};
	struct vhd *vhd = NULL;
	int result;

	options.flags = VHD_OPEN_SALVAGE;
	result = vhd_open(path, &options, &vhd, &err);
	if (result) {
		if (!err.text[0])
			fail_row("salvage refuses without a sentence");
		if (!row->unsalvageable)
			fail_row("salvage gets nothing out: %s", err.text);
		return;
	}
	if (row->unsalvageable)
		fail_row("salvage should have refused it");
	disk_read(vhd_blk(vhd), NULL, 0);
	if (vhd_close(vhd, &err))
		fail_row("closing after salvage failed: %s", err.text);
}

static void check_check(const struct hostile_row *row, const char *path, const struct vhd_open_options *open_options)
{
	struct told told = {0};
	struct err err = {.text = ""};
	struct vhd_check_result counts = {0};
	struct vhd_check_options options = {.parent = open_options->parent, .parent_raw = open_options->parent_raw,
	                                    .allow_dirs = open_options->allow_dirs, .defect = on_defect, .user = &told};
	int result = vhd_check(path, &options, &counts, &err);

	if (row->expect == 0 && result)
		fail_row("check finds %u damages (%d) in an image that opens: %s", counts.damages, result, err.text);
	if (row->expect && row->expect != HOSTILE_EITHER && !result)
		fail_row("check finds no damage in an image that does not open");
	if (result == VHD_E_CORRUPT && !told.damages && !err.text[0])
		fail_row("check says corrupt and names no damage");
	if (result && result != VHD_E_CORRUPT && !err.text[0])
		fail_row("check gives up (%d) without a sentence", result);
	if (counts.damages != told.damages && !err.text[0])
		fail_row("check counts %u damages and reports %u", counts.damages, told.damages);
}

static void limit(void)
{
	alarm(SECONDS_MAX);
#ifndef SANITIZED
	struct rlimit space = {.rlim_cur = (rlim_t)2 << 30, .rlim_max = (rlim_t)2 << 30};

	setrlimit(RLIMIT_AS, &space);
#endif
}

static void run_child(const struct hostile_row *row, const char *dir)
{
	struct image_spec spec = *row->spec;
	struct image image;
	char path[512], allow[512], parent[512];
	const char *allow_dirs[] = {allow, NULL};
	struct told told = {.want = row->warning};
	struct vhd_open_options options = {.warn = on_warning, .user = &told};
	struct rusage usage;
	uint8_t *after;
	size_t after_size;

	limit();
	snprintf(path, sizeof(path), "%s/out", dir);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/in", dir);
	mkdir(path, 0700);
	if (row->scene)
		row->scene(dir, &spec);
	snprintf(path, sizeof(path), "%s/in/disk.vhd", dir);
	snprintf(allow, sizeof(allow), "%s/%s", dir, row->allow ? row->allow : "");
	snprintf(parent, sizeof(parent), "%s/%s", dir, row->parent ? row->parent : "");
	options.allow_dirs = row->allow ? allow_dirs : NULL;
	options.parent = row->parent ? parent : NULL;
	options.parent_raw = row->parent_raw;

	image_build(&spec, &image);
	for (unsigned i = 0; i < sizeof(row->edits) / sizeof(row->edits[0]); i++)
		image_edit(&image, &row->edits[i]);
	if (row->bend)
		row->bend(&image);
	if (row->cut)
		image_resize(&image, image.size - row->cut);
	if (row->cut_to)
		image_resize(&image, row->cut_to);
	if (image_write(&image, path))
		fail_row("%s cannot be written", path);

	check_open(row, path, &options, &spec, &image);
	check_salvage(row, path, options);
	check_check(row, path, &options);

	after = file_load(path, &after_size);
	if (after_size != image.size || memcmp(after, image.bytes, image.size))
		fail_row("the file changed, though nobody opened it for writing");
	free(after);
	image_free(&image);
	if (getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_maxrss > RSS_MAX_KIB)
		fail_row("took %ld KiB of memory", usage.ru_maxrss);
	exit(0);
}

static void run_row(void **state)
{
	const struct hostile_row *row = *state;
	char *dir = temp_dir_new("hostile");
	int status;
	pid_t child;

	row_name = row->name;
	fflush(NULL);
	child = fork();
	assert_int_not_equal(child, -1);
	if (child == 0)
		run_child(row, dir);
	assert_int_equal(waitpid(child, &status, 0), child);
	temp_dir_free(dir);
	if (WIFSIGNALED(status))
		fail_msg("%s: killed by signal %d%s", row->name, WTERMSIG(status),
		         WTERMSIG(status) == SIGALRM ? " (took too long)" : "");
	if (WEXITSTATUS(status))
		fail_msg("%s: failed as said above", row->name);
}

int hostile_run(const char *group, const struct hostile_row *rows, unsigned count)
{
	struct CMUnitTest *tests = calloc(count, sizeof(*tests));
	int failed;

	if (!tests)
		abort();
	for (unsigned i = 0; i < count; i++)
		tests[i] = (struct CMUnitTest){.name = rows[i].name, .test_func = run_row, .initial_state = (void *)&rows[i]};
	failed = _cmocka_run_group_tests(group, tests, count, NULL, NULL);
	free(tests);
	return failed;
}
