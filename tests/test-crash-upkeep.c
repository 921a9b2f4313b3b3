/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power failures while a disk gets another size, gives back space, or gets another parent, with a guest at work where one
 * may be (tests/lib/crash-files.h says what must hold, and what the environment may choose).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/crash-files.h"

#define SIZE (256u << 10)
#define FIXED_SIZE (96u << 10)
#define GROWN (1280u << 10) /* more blocks than one sector of the table has entries */
#define SHRUNK (100u << 10)
#define OTHER "other.vhd"

static void a_disk(struct crash_files *c)
{
	crash_make_chain(c, 1, SIZE);
}

static void a_chain_of_two(struct crash_files *c)
{
	crash_make_chain(c, 2, SIZE);
}

static void a_fixed_disk(struct crash_files *c)
{
	static const struct vhd_create_options fixed = {.type = VHD_FIXED, .size_bytes = FIXED_SIZE};

	crash_make(c, CRASH_LEAF, NULL, &fixed);
	crash_fill(c, CRASH_LEAF, c->seed, 10);
}

/* Opens the leaf, and does `operation` after some requests; `beside`: and beside some. */
static int work(struct crash_files *c, int (*operation)(struct crash_files *c, struct vhd *vhd, struct err *err),
                bool beside, struct err *err)
{
	struct vhd *vhd;
	int rc = crash_open(c, &vhd, err), other;

	if (rc)
		return rc;
	rc = crash_guest(c, vhd, 25, err);
	if (rc == 0) {
		if (beside)
			crash_guest_start(c, vhd);
		rc = operation(c, vhd, err);
		other = beside ? crash_guest_stop(c, rc ? NULL : err) : 0;
		rc = rc ? rc : other;
	}
	if (rc == 0)
		rc = crash_guest(c, vhd, 30, err);
	other = crash_close(c, vhd, rc ? NULL : err);
	return rc ? rc : other;
}

/* --- another size --- */

static int resize(struct crash_files *c, struct vhd *vhd, struct err *err)
{
	static const struct vhd_resize_options options = {.force = true};

	return vhd_resize(vhd, c->scenario->size_after, &options, NULL, err);
}

static int grow(struct crash_files *c, struct err *err)
{
	return work(c, resize, true, err);
}

/* Nobody may use what is cut off. */
static int shrink(struct crash_files *c, struct err *err)
{
	return work(c, resize, false, err);
}

/* --- giving back space --- */

/* Every other block holds only zeros, written as data. */
static void zeros_between(struct crash_files *c)
{
	static const uint8_t zeros[CRASH_BLOCK];
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	char *path = crash_path(c, CRASH_LEAF);
	struct err err = {""};
	struct blk_queue *queue;
	struct vhd *vhd;

	crash_must(vhd_open(path, &options, &vhd, &err), &err);
	crash_must(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), &err);
	for (uint64_t offset = 0; offset < SIZE; offset += 2 * CRASH_BLOCK)
		crash_must(blk_pwrite(queue, zeros, sizeof(zeros), offset), &err);
	blk_queue_free(queue);
	crash_must(vhd_close(vhd, &err), &err);
	free(path);
}

static void a_disk_with_zeros(struct crash_files *c)
{
	a_disk(c);
	zeros_between(c);
}

static void a_chain_with_zeros(struct crash_files *c)
{
	a_chain_of_two(c);
	zeros_between(c);
}

static int compact(struct crash_files *c, struct vhd *vhd, struct err *err)
{
	struct vhd_compact_result result;

	(void)c;
	return vhd_compact(vhd, NULL, &result, err);
}

static int compact_run(struct crash_files *c, struct err *err)
{
	return work(c, compact, true, err);
}

/* --- another parent --- */

static void two_parents(struct crash_files *c)
{
	static const struct vhd_create_options options = {.size_bytes = SIZE, .block_size_bytes = CRASH_BLOCK};

	a_chain_of_two(c);
	crash_make(c, OTHER, NULL, &options);
	crash_fill(c, OTHER, c->seed + 77, 25);
}

/* The name of the leaf's parent, "" if it has none; freed by the caller. */
static int parent_name(struct crash_files *c, char **ret, struct err *err)
{
	char *path = crash_path(c, CRASH_LEAF);
	struct vhd_info info;
	struct vhd *vhd;
	int rc = vhd_open(path, NULL, &vhd, err);

	free(path);
	if (rc)
		return rc;
	if (vhd_layer_count(vhd) > 1)
		vhd_layer_info(vhd, 1, &info);
	*ret = strdup(vhd_layer_count(vhd) > 1 ? strrchr(info.path, '/') + 1 : "");
	vhd_close(vhd, NULL);
	return *ret ? 0 : -ENOMEM;
}

/* And the disk is written to over its new parent, or none. */
static int rebase(struct crash_files *c, const char *parent, struct err *err)
{
	struct vhd_rebase_options options = {0};
	char *path = crash_path(c, CRASH_LEAF), *above = parent[0] ? crash_path(c, parent) : NULL, *now = NULL;
	struct vhd_rebase_result result;
	struct vhd *vhd;
	int rc = parent_name(c, &now, err), closing;

	options.parent = above;
	if (rc == 0 && strcmp(now, parent))
		rc = vhd_rebase(path, &options, &result, err);
	free(now);
	free(path);
	free(above);
	if (rc == 0)
		rc = crash_open(c, &vhd, err);
	if (rc)
		return rc;
	rc = crash_guest(c, vhd, 40, err);
	closing = crash_close(c, vhd, rc ? NULL : err);
	return rc ? rc : closing;
}

static int rebase_holds(struct crash_files *c, const char *parent, struct err *err)
{
	char *now;
	int rc = parent_name(c, &now, err);

	if (rc)
		return rc;
	if (c->ended && strcmp(now, parent))
		rc = err_set(err, -EILSEQ, "the disk was to stand on \"%s\" and stands on \"%s\"", parent, now);
	free(now);
	return rc;
}

static int rebase_to_other(struct crash_files *c, struct err *err)
{
	return rebase(c, OTHER, err);
}

static int stands_on_other(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)
{
	(void)content;
	(void)size;
	return rebase_holds(c, OTHER, err);
}

static int rebase_to_none(struct crash_files *c, struct err *err)
{
	return rebase(c, "", err);
}

static int stands_alone(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)
{
	(void)content;
	(void)size;
	return rebase_holds(c, "", err);
}

enum {
	GROW_DYNAMIC, GROW_CHAIN, GROW_FIXED, SHRINK_DYNAMIC, SHRINK_CHAIN, SHRINK_FIXED, COMPACT_DISK, COMPACT_CHAIN, REBASE,
	REBASE_ALONE,
};

static const struct crash_scenario scenarios[] = {
	[GROW_DYNAMIC] = {
		.name = "grow-dynamic", .states = 300, .make = a_disk, .run = grow, .again = grow, .size_after = GROWN,
	},
	[GROW_CHAIN] = {
		.name = "grow-chain", .states = 300, .make = a_chain_of_two, .run = grow, .again = grow, .size_after = GROWN,
	},
	[GROW_FIXED] = {
		.name = "grow-fixed", .states = 300, .make = a_fixed_disk, .run = grow, .again = grow, .size_after = SIZE,
	},
	[SHRINK_DYNAMIC] = {
		.name = "shrink-dynamic", .states = 300, .make = a_disk, .run = shrink, .again = shrink, .size_after = SHRUNK,
	},
	[SHRINK_CHAIN] = {
		.name = "shrink-chain", .states = 300, .make = a_chain_of_two, .run = shrink, .again = shrink,
		.size_after = SHRUNK,
	},
	[SHRINK_FIXED] = {
		.name = "shrink-fixed", .states = 300, .make = a_fixed_disk, .run = shrink, .again = shrink,
		.size_after = 40u << 10,
	},
	[COMPACT_DISK] = {
		.name = "compact-disk", .states = 500, .make = a_disk_with_zeros, .run = compact_run, .again = compact_run,
	},
	[COMPACT_CHAIN] = {
		.name = "compact-chain", .states = 400, .make = a_chain_with_zeros, .run = compact_run, .again = compact_run,
	},
	[REBASE] = {
		.name = "rebase", .states = 500, .make = two_parents, .run = rebase_to_other, .again = rebase_to_other,
		.look = stands_on_other,
	},
	[REBASE_ALONE] = {
		.name = "rebase-alone", .states = 400, .make = a_chain_of_two, .run = rebase_to_none, .again = rebase_to_none,
		.look = stands_alone,
	},
};

static void a_crash_while_a_disk_grows_under_a_writing_guest(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, GROW_DYNAMIC);
	crash_scenario_run(scenarios, GROW_CHAIN);
	crash_scenario_run(scenarios, GROW_FIXED);
}

static void a_crash_while_a_disk_shrinks(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, SHRINK_DYNAMIC);
	crash_scenario_run(scenarios, SHRINK_CHAIN);
	crash_scenario_run(scenarios, SHRINK_FIXED);
}

static void a_crash_while_space_is_given_back_under_a_writing_guest(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, COMPACT_DISK);
	crash_scenario_run(scenarios, COMPACT_CHAIN);
}

static void a_crash_while_a_disk_gets_another_parent_or_none(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, REBASE);
	crash_scenario_run(scenarios, REBASE_ALONE);
}

static void without_a_barrier_of_a_resize_something_is_lost(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, GROW_FIXED, STORE_BARRIER_MARK);
	crash_scenario_without(scenarios, GROW_FIXED, STORE_BARRIER_EXTEND);
	crash_scenario_without(scenarios, SHRINK_DYNAMIC, STORE_BARRIER_SIZE);
}

static void without_a_barrier_of_compacting_something_is_lost(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, COMPACT_DISK, STORE_BARRIER_DATA);
	crash_scenario_without(scenarios, COMPACT_DISK, STORE_BARRIER_METADATA);
}

static void without_a_barrier_of_a_rebase_something_is_lost(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, REBASE, STORE_BARRIER_DATA);
	crash_scenario_without(scenarios, REBASE, STORE_BARRIER_HEADER);
	crash_scenario_without(scenarios, REBASE, STORE_BARRIER_SWITCH);
	crash_scenario_without(scenarios, REBASE, STORE_BARRIER_FOOTER);
}

static void the_state_that_was_kept(void **state)
{
	(void)state;
	crash_scenario_again(scenarios, sizeof(scenarios) / sizeof(*scenarios), getenv("CRASH_STATE"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_while_a_disk_grows_under_a_writing_guest),
		cmocka_unit_test(a_crash_while_a_disk_shrinks),
		cmocka_unit_test(a_crash_while_space_is_given_back_under_a_writing_guest),
		cmocka_unit_test(a_crash_while_a_disk_gets_another_parent_or_none),
		cmocka_unit_test(without_a_barrier_of_a_resize_something_is_lost),
		cmocka_unit_test(without_a_barrier_of_compacting_something_is_lost),
		cmocka_unit_test(without_a_barrier_of_a_rebase_something_is_lost),
	};
	const struct CMUnitTest again[] = {
		cmocka_unit_test(the_state_that_was_kept),
	};

	if (getenv("CRASH_STATE"))
		return cmocka_run_group_tests(again, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
