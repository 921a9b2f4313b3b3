/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images damaged as a seed says, one way or two at a time: each is repaired with all that the damage did not take, or
 * refused with a reason and left alone. Another seed: REPAIR_SEED; more cases: REPAIR_CASES; one case: REPAIR_CASE; why any
 * was refused: REPAIR_REASONS.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/corrupter.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define KINDS 7u
#define CASES 900u
#define KILLED_EVERY 6u /* so many cases are also killed after each of their writes */

static char *dir, path[512], parent_path[512], side_path[600], damaged_path[512];
static uint64_t seed = 20061011;

static int folder_make(void **state)
{
	/* Thousands of syncs, and none of them is what is tested here. */
	if (access("/dev/shm", W_OK | X_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 1);
	dir = temp_dir_new("repair");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	snprintf(parent_path, sizeof(parent_path), "%s/p.vhd", dir);
	snprintf(side_path, sizeof(side_path), "%s.repair", path);
	snprintf(damaged_path, sizeof(damaged_path), "%s/damaged", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

/* --- Cases --- */

struct test_case {
	unsigned number;
	struct image_spec spec, parent;
	struct image image; /* damaged */
	uint8_t *content;   /* of the disk, before */
	struct corrupted corrupted;
	enum corruption how[2];
	unsigned hows;
	char name[200];
};

static void blocks_choose(struct image_spec *spec, unsigned count, bool partial, struct rng *rng)
{
	uint32_t block_size = spec->block_size, blocks = (uint32_t)((spec->size + block_size - 1) / block_size);
	uint32_t order[64];

	for (uint32_t i = 0; i < blocks; i++)
		order[i] = i;
	for (uint32_t i = blocks - 1; i > 0; i--) {
		uint32_t j = (uint32_t)rng_below(rng, i + 1), x = order[i];

		order[i] = order[j];
		order[j] = x;
	}
	spec->block_count = count;
	for (unsigned i = 0; i < count; i++)
		spec->blocks[i] = (struct image_block){
			.index = order[i],
			.gap_sectors = rng_percent(rng, 25) ? (uint32_t)rng_below(rng, 8) : 0,
			.clear = partial && rng_percent(rng, 60) ? (uint8_t)rng_next(rng) : 0,
			.seed = (uint8_t)rng_next(rng),
		};
}

static void case_spec(struct test_case *c, unsigned kind, struct rng *rng)
{
	struct image_spec *spec = &c->spec;

	*spec = (struct image_spec){.type = IMAGE_DYNAMIC, .size = 32 * 4096 - 1024, .block_size = 4096, .uuid_seed = 9,
	                            .time_stamp = 1000};
	switch (kind) {
	case 0:
		blocks_choose(spec, 8, false, rng);
		break;
	case 1: /* as Xen makes them */
		*spec = (struct image_spec){.type = IMAGE_DYNAMIC, .size = 20 * 65536, .block_size = 65536, .uuid_seed = 9,
		                            .creator = "tap", .batmap = true, .bat_gap_sectors = 3};
		blocks_choose(spec, 6, true, rng);
		break;
	case 2:
	case 3:
		spec->type = IMAGE_DIFFERENCING;
		spec->parent_uuid_seed = 77;
		spec->parent_name = "p.vhd";
		spec->locators[0] = (struct image_locator){.code = "W2ru", .text = ".\\p.vhd", .after_blocks = kind == 3};
		spec->stale = kind == 3;
		blocks_choose(spec, 7, true, rng);
		break;
	case 4:
		*spec = (struct image_spec){.type = IMAGE_FIXED, .size = 65536, .uuid_seed = 9, .fixed_seed = 5};
		break;
	case 5:
		spec->header_gap_sectors = 2;
		spec->bat_gap_sectors = 5;
		spec->footer_gap_sectors = 3;
		blocks_choose(spec, 1 + (unsigned)rng_below(rng, 12), true, rng);
		break;
	default:
		spec->size = 40 * 524288;
		spec->block_size = 524288;
		blocks_choose(spec, 2, false, rng);
	}
	if (spec->type == IMAGE_DIFFERENCING) {
		c->parent = (struct image_spec){.type = IMAGE_DYNAMIC, .size = spec->size, .block_size = 8192, .uuid_seed = 77};
		blocks_choose(&c->parent, 9, false, rng);
	}
}

static void case_build(struct test_case *c, unsigned number)
{
	struct rng rng = rng_fork(seed, number);
	unsigned kind = number % KINDS, single = number / KINDS;

	*c = (struct test_case){.number = number};
	case_spec(c, kind, &rng);
	image_build(&c->spec, &c->image);
	c->content = calloc(1, c->spec.size);
	assert_non_null(c->content);
	unlink(parent_path);
	if (c->spec.type == IMAGE_DIFFERENCING) {
		struct image image;

		image_content(&c->parent, c->content);
		image_build(&c->parent, &image);
		assert_int_equal(image_write(&image, parent_path), 0);
		image_free(&image);
		image_overlay(&c->spec, c->content);
	} else {
		image_content(&c->spec, c->content);
	}
	corrupted_init(&c->corrupted, &c->spec);
	/* Each way alone, then two together. */
	for (unsigned wanted = single < CORRUPTIONS ? 1 : 2, tries = 0; c->hows < wanted && tries < 100; tries++) {
		enum corruption how = single < CORRUPTIONS && tries == 0 ? single : rng_below(&rng, CORRUPTIONS);

		if (corrupt(&c->spec, &c->image, how, &rng, &c->corrupted))
			c->how[c->hows++] = how;
	}
	snprintf(c->name, sizeof(c->name), "case %u (kind %u: %s%s%s)", number, kind, corruption_name(c->how[0]),
	         c->hows > 1 ? " + " : "", c->hows > 1 ? corruption_name(c->how[1]) : "");
	assert_int_equal(image_write(&c->image, path), 0);
}

static void case_free(struct test_case *c)
{
	image_free(&c->image);
	free(c->content);
	corrupted_done(&c->corrupted);
}

static bool case_has(const struct test_case *c, enum corruption how)
{
	return c->how[0] == how || (c->hows > 1 && c->how[1] == how);
}

/* --- What a repair says --- */

struct report {
	bool *listed; /* sectors that it says are lost or doubtful */
	uint64_t sectors;
	unsigned refused, refused_parent;
	char reason[600];
	unsigned kill_at, writes; /* in a child: dies at that many progress reports */
};

static void step_take(void *user, const struct vhd_repair_step *step)
{
	struct report *report = user;

	assert_non_null(step->code);
	assert_true(strlen(step->sentence) > 20);
	if (getenv("REPAIR_CASE"))
		print_message("  %d %s: %s\n", step->state, step->code, step->sentence);
	if (step->state != VHD_REPAIR_REFUSED)
		return;
	report->refused++;
	report->refused_parent += !strncmp(step->code, "parent-", 7);
	snprintf(report->reason, sizeof(report->reason), "%s: %s", step->code, step->sentence);
}

static void loss_take(void *user, const struct vhd_repair_loss *loss)
{
	struct report *report = user;

	for (uint64_t i = loss->offset / 512; i < (loss->offset + loss->length + 511) / 512 && i < report->sectors; i++)
		report->listed[i] = true;
}

static void progress_take(void *user, uint64_t done, uint64_t total)
{
	struct report *report = user;

	assert_true(done <= total);
	if (++report->writes == report->kill_at)
		_exit(9);
}

static int repair(struct report *report, bool dry_run, bool force, struct vhd_repair_result *result, struct err *err)
{
	struct vhd_repair_options options = {
		.dry_run = dry_run, .force = force, .clear_saved_state = true,
		.parent = force && access(parent_path, F_OK) == 0 ? parent_path : NULL,
		.step = step_take, .loss = loss_take, .progress = progress_take, .user = report,
	};

	if (report->listed)
		memset(report->listed, 0, report->sectors);
	report->refused = report->refused_parent = report->writes = 0;
	report->reason[0] = '\0';
	return vhd_repair(path, &options, result, err);
}

/* --- What is right afterwards --- */

static uint8_t *file_read(const char *name, size_t *ret_size)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *bytes;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	bytes = malloc((size_t)st.st_size + 1);
	assert_non_null(bytes);
	assert_int_equal(read(fd, bytes, (size_t)st.st_size), st.st_size);
	close(fd);
	*ret_size = (size_t)st.st_size;
	return bytes;
}

static bool file_is(const char *name, const struct image *image)
{
	size_t size;
	uint8_t *bytes = file_read(name, &size);
	bool same = size == image->size && !memcmp(bytes, image->bytes, size);

	free(bytes);
	return same;
}

static bool is_of_bat(enum corruption how)
{
	return how >= CORRUPT_BAT_SAME && how <= CORRUPT_BAT_METADATA;
}

/*
 * Whether the damage leaves no trace. What follows a file that was cut off looks like the rest of its last blocks; how
 * large a fixed disk was that lost its footer, nothing says; and an entry that names the place of a block whose own
 * entry is gone looks right.
 */
static bool is_hidden(const struct test_case *c)
{
	if (case_has(c, CORRUPT_TRUNCATE) && (case_has(c, CORRUPT_TRAILING_ZEROS) || case_has(c, CORRUPT_TRAILING_BYTES) ||
	                                      c->spec.type == IMAGE_FIXED))
		return true;
	return c->hows > 1 && is_of_bat(c->how[0]) && is_of_bat(c->how[1]);
}

static bool opens(void)
{
	struct vhd *vhd;

	if (vhd_open(path, NULL, &vhd, NULL))
		return false;
	vhd_close(vhd, NULL);
	return true;
}

/* Every sector that the damage did not take is there; one that is not as it was has been told of. */
static void content_check(const struct test_case *c, const struct report *report, bool told)
{
	struct blk_queue *queue;
	struct blk_info info;
	struct vhd *vhd;
	struct err err;
	uint8_t *now;
	uint64_t size;

	if (vhd_open(path, NULL, &vhd, &err))
		fail_msg("%s: %s", c->name, err.text);
	blk_info(vhd_blk(vhd), &info);
	size = info.size < c->spec.size ? info.size : c->spec.size;
	now = malloc(c->spec.size);
	assert_non_null(now);
	assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, NULL), 0);
	assert_int_equal(blk_pread(queue, now, size, 0), 0);
	blk_queue_free(queue);
	vhd_close(vhd, NULL);
	for (uint64_t s = 0; s < c->spec.size / 512; s++) {
		bool same = s * 512 < size && !memcmp(now + s * 512, c->content + s * 512, 512);

		if (!same && !c->corrupted.taken[s])
			fail_msg("%s: sector %" PRIu64 " was not damaged and is lost", c->name, s);
		if (!same && told && !report->listed[s])
			fail_msg("%s: sector %" PRIu64 " is lost and not told of", c->name, s);
	}
	free(now);
}

/* What is refused alone, and rightly so. */
static bool may_be_refused(const struct test_case *c)
{
	bool child = c->spec.type == IMAGE_DIFFERENCING, fixed = c->spec.type == IMAGE_FIXED;

	if (c->hows > 1)
		return true;
	switch (c->how[0]) {
	case CORRUPT_END_ZERO: /* nothing says that it was a disk: --force */
	case CORRUPT_END_RANDOM:
	case CORRUPT_END_KILLED:
	case CORRUPT_TRUNCATE:
		return fixed;
	case CORRUPT_HEADER_ZERO:
		return child;
	default:
		return false;
	}
}

struct count {
	unsigned repaired, refused, clean;
};

static void killed_try(struct test_case *c, struct report *report, bool force, unsigned writes, bool opened)
{
	for (unsigned kill_at = 1; kill_at <= writes; kill_at++) {
		struct vhd_repair_result result;
		struct err err = {""};
		int status, r;
		pid_t pid;

		unlink(side_path);
		assert_int_equal(image_write(&c->image, path), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			report->kill_at = kill_at;
			repair(report, false, force, &result, NULL);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		if (WEXITSTATUS(status) == 0)
			return; /* all writes had been made: those were reports of the check */
		if (opened && !opens())
			fail_msg("%s: killed at write %u, it does not open any more", c->name, kill_at);
		r = repair(report, false, force, &result, &err);
		if (r)
			fail_msg("%s: killed at write %u, it is not repaired: %s (%s)", c->name, kill_at, err.text, report->reason);
		content_check(c, report, false);
		/* The first side file leads back to the damaged image only through the second. */
		if (result.side_file[0]) {
			if (vhd_repair_undo(path, result.side_file, false, &err))
				fail_msg("%s: %s", c->name, err.text);
			unlink(result.side_file);
		}
		if (access(side_path, F_OK) == 0 && vhd_repair_undo(path, side_path, true, &err))
			fail_msg("%s: %s", c->name, err.text);
		if (!file_is(path, &c->image))
			fail_msg("%s: killed at write %u, it is not undone", c->name, kill_at);
	}
}

static void case_run(unsigned number, struct count *count)
{
	struct report report = {0};
	struct vhd_repair_result result;
	struct err err = {""};
	struct test_case c;
	int planned, r, again;
	bool force, opened;

	case_build(&c, number);
	force = case_has(&c, CORRUPT_PARENT_ID) ||
	        ((c.spec.type == IMAGE_DIFFERENCING || c.spec.type == IMAGE_FIXED) && number / KINDS % 3 == 2);
	report.sectors = c.corrupted.sectors;
	report.listed = calloc(report.sectors, sizeof(bool));
	unlink(side_path);
	opened = opens();

	planned = repair(&report, true, force, &result, &err);
	if (!file_is(path, &c.image) || access(side_path, F_OK) == 0)
		fail_msg("%s: --dry-run changed something", c.name);
	r = repair(&report, false, force, &result, &err);
	if (r != planned)
		fail_msg("%s: the plan ends in %d, the repair in %d: %s (%s)", c.name, planned, r, err.text, report.reason);
	if (getenv("REPAIR_CASE"))
		print_message("%s: %d %s\n  %s\n", c.name, r, err.text, report.reason);
	if (r == 0) {
		again = vhd_check(path, NULL, NULL, &err);
		if (again)
			fail_msg("%s: repaired, and yet: %s", c.name, err.text);
		content_check(&c, &report, !is_hidden(&c));
		count->repaired += result.changed_bytes > 0;
		count->clean += result.changed_bytes == 0;
		again = (int)report.writes;
		if (result.changed_bytes) {
			assert_string_equal(result.side_file, side_path);
			if (vhd_repair_undo(path, side_path, false, &err))
				fail_msg("%s: %s", c.name, err.text);
			if (!file_is(path, &c.image))
				fail_msg("%s: the side file does not give the damaged image back", c.name);
			if (number % KILLED_EVERY == 0)
				killed_try(&c, &report, force, (unsigned)again, opened);
		} else if (!file_is(path, &c.image)) {
			fail_msg("%s: changed, and not said", c.name);
		}
	} else {
		count->refused++;
		if (getenv("REPAIR_REASONS"))
			print_message("%s: %s\n", c.name, report.reason[0] ? report.reason : err.text);
		if (r < 0 || (r == VHD_E_CORRUPT && (report.refused == 0 || strlen(report.reason) < 30)) || strlen(err.text) < 30)
			fail_msg("%s: no reason given: %d %s", c.name, r, err.text);
		if (!may_be_refused(&c))
			fail_msg("%s: refused: %s (%s)", c.name, err.text, report.reason);
		if (report.refused != report.refused_parent && !file_is(path, &c.image))
			fail_msg("%s: refused, and yet changed", c.name);
	}
	free(report.listed);
	case_free(&c);
}

static void damage_is_repaired_with_all_that_it_did_not_take_or_refused(void **state)
{
	unsigned cases = getenv("REPAIR_CASES") ? (unsigned)atoi(getenv("REPAIR_CASES")) : CASES;
	struct count count = {0};

	if (getenv("REPAIR_SEED"))
		seed = strtoull(getenv("REPAIR_SEED"), NULL, 0);
	if (getenv("REPAIR_CASE")) {
		case_run((unsigned)atoi(getenv("REPAIR_CASE")), &count);
		return;
	}
	for (unsigned i = 0; i < cases; i++)
		case_run(i, &count);
	print_message("%u cases: %u repaired, %u refused, %u without damage\n", cases, count.repaired, count.refused,
	              count.clean);
	/* Refusing is right only where nothing can be known. */
	assert_true(count.repaired >= cases * 8 / 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(damage_is_repaired_with_all_that_it_did_not_take_or_refused, folder_make,
		                                folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
