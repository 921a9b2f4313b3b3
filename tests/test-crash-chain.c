/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power failures during the upkeep of chains, with guests at work where it goes on online: which files there are, and
 * what they say of each other, changes meanwhile (tests/lib/crash-files.h says what must hold, and what the environment
 * may choose).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/crash-files.h"
#include "vhd/directory.h"

#define SIZE (256u << 10)

static void a_disk(struct crash_files *c)
{
	crash_make_chain(c, 1, SIZE);
}

static void a_chain_of_two(struct crash_files *c)
{
	crash_make_chain(c, 2, SIZE);
}

/* An operation on the open leaf: the guest is at work before it, beside it, and after it. */
static int online(struct crash_files *c, int (*operation)(struct crash_files *c, struct vhd *vhd, struct err *err),
                  struct err *err)
{
	struct vhd *vhd;
	int rc = crash_open(c, &vhd, err), other;

	if (rc)
		return rc;
	rc = crash_guest(c, vhd, 25, err);
	if (rc == 0) {
		crash_guest_start(c, vhd);
		rc = operation(c, vhd, err);
		other = crash_guest_stop(c, rc ? NULL : err);
		rc = rc ? rc : other;
	}
	if (rc == 0)
		rc = crash_guest(c, vhd, 40, err);
	other = crash_close(c, vhd, rc ? NULL : err);
	return rc ? rc : other;
}

/* --- switching to a child --- */

#define FROZEN "frozen.vhd"

static bool stands_on_frozen(struct vhd *vhd)
{
	struct vhd_info info;

	if (vhd_layer_count(vhd) < 2)
		return false;
	vhd_layer_info(vhd, 1, &info);
	return strcmp(strrchr(info.path, '/') + 1, FROZEN) == 0;
}

static int switch_child(struct crash_files *c, struct vhd *vhd, struct err *err)
{
	struct vhd_child *child;
	char *frozen = crash_path(c, FROZEN);
	int rc = 0;

	if (!stands_on_frozen(vhd)) {
		rc = vhd_child_prepare(vhd, frozen, &child, err);
		if (rc == 0)
			rc = vhd_switch_child(vhd, child, err);
	}
	free(frozen);
	return rc;
}

static int switch_run(struct crash_files *c, struct err *err)
{
	return online(c, switch_child, err);
}

static int switch_holds(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)
{
	char *path = crash_path(c, CRASH_LEAF);
	struct vhd *vhd;
	int rc = vhd_open(path, NULL, &vhd, err);

	(void)content;
	(void)size;
	free(path);
	if (rc)
		return rc;
	if (c->ended && !stands_on_frozen(vhd))
		rc = err_set(err, -EILSEQ, "the switch has ended, and the leaf does not stand on %s", FROZEN);
	vhd_close(vhd, NULL);
	return rc;
}

/* --- merging --- */

/* Which layer of the open leaf's chain the file is; -1: none. */
static int layer_named(struct vhd *vhd, const char *name)
{
	for (unsigned i = 0; i < vhd_layer_count(vhd); i++) {
		struct vhd_info info;

		vhd_layer_info(vhd, i, &info);
		if (strcmp(strrchr(info.path, '/') + 1, name) == 0)
			return (int)i;
	}
	return -1;
}

struct merge_plan {
	const char *layer, *into; /* names */
	bool rename, several, idle;
};

/* The merge of an open disk; done before, nothing is left to do. */
static int merge_in(struct vhd *vhd, const struct merge_plan *plan, struct err *err)
{
	int layer = layer_named(vhd, plan->layer), into = layer_named(vhd, plan->into);
	struct vhd_merge_options options = {.rename = plan->rename, .force = true, .idle = plan->idle};

	if (layer < 0 || into < 0)
		return 0;
	options.layer = (unsigned)layer;
	options.into = (unsigned)into;
	return vhd_merge(vhd, &options, NULL, err);
}

/* The leaf does not stand on it any more, but its file is there still: what it stands on itself is asked for. */
static int merge_the_file(struct crash_files *c, const struct merge_plan *plan, struct err *err)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	char *path = crash_path(c, plan->layer);
	struct vhd *vhd;
	int rc = vhd_open(path, &options, &vhd, err), closing;

	free(path);
	if (rc)
		return rc;
	rc = merge_in(vhd, plan, err);
	closing = vhd_close(vhd, rc ? NULL : err);
	return rc ? rc : closing;
}

static int merge_again(struct crash_files *c, const struct merge_plan *plan, int (*run)(struct crash_files *c, struct err *err),
                       struct err *err)
{
	int rc = run(c, err);
	char *path;

	if (rc || plan->rename || !crash_exists(c, plan->layer))
		return rc;
	/* Where all of several are left over, too. */
	if (!plan->several || crash_exists(c, "layer-2.vhd"))
		return merge_the_file(c, plan, err);
	/* What lay between is gone already, so that it cannot be opened: its file is all that is left to remove. */
	path = crash_path(c, plan->layer);
	rc = directory_unlink(path);
	if (rc == 0)
		rc = directory_sync(c->folder);
	free(path);
	return rc;
}

static int merged_holds(struct crash_files *c, const struct merge_plan *plan, struct err *err)
{
	const char *gone = plan->rename ? plan->into : plan->layer;

	if (plan->several && c->ended && crash_exists(c, "layer-2.vhd"))
		gone = "layer-2.vhd";
	return c->ended && crash_exists(c, gone) ? err_set(err, -EILSEQ, "the merge has ended, and %s is there", gone) : 0;
}

#define MERGE(what, ...)                                                                                     \
	static const struct merge_plan what = {__VA_ARGS__};                                                     \
	static int what##_online(struct crash_files *c, struct vhd *vhd, struct err *err)                        \
	{                                                                                                        \
		(void)c;                                                                                             \
		return merge_in(vhd, &what, err);                                                                    \
	}                                                                                                        \
	static int what##_run(struct crash_files *c, struct err *err)                                            \
	{                                                                                                        \
		return online(c, what##_online, err);                                                                \
	}                                                                                                        \
	static int what##_again(struct crash_files *c, struct err *err)                                          \
	{                                                                                                        \
		return merge_again(c, &what, what##_run, err);                                                       \
	}                                                                                                        \
	static int what##_holds(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)   \
	{                                                                                                        \
		(void)content;                                                                                       \
		(void)size;                                                                                          \
		return merged_holds(c, &what, err);                                                                  \
	}

MERGE(merge_middle, .layer = "layer-1.vhd", .into = "layer-2.vhd")
MERGE(merge_several, .layer = "layer-1.vhd", .into = "layer-3.vhd", .several = true)
MERGE(merge_leaf, .layer = CRASH_LEAF, .into = "layer-1.vhd")
MERGE(merge_leaf_rename, .layer = CRASH_LEAF, .into = "layer-1.vhd", .rename = true)

static const struct merge_plan merge_idle = {.layer = CRASH_LEAF, .into = "layer-1.vhd", .rename = true, .idle = true};

static int merge_at_rest(struct crash_files *c, struct err *err)
{
	struct vhd *vhd;
	int rc = crash_open(c, &vhd, err), closing;

	if (rc)
		return rc;
	rc = merge_in(vhd, &merge_idle, err);
	closing = crash_close(c, vhd, rc ? NULL : err);
	return rc ? rc : closing;
}

static void a_chain_of_three(struct crash_files *c)
{
	crash_make_chain(c, 3, SIZE);
}

static void a_chain_of_four(struct crash_files *c)
{
	crash_make_chain(c, 4, SIZE);
}

enum { MERGE_MIDDLE, MERGE_SEVERAL, MERGE_LEAF, MERGE_LEAF_RENAME, MERGE_AT_REST, SWITCH_DISK, SWITCH_CHAIN };

static const struct crash_scenario scenarios[] = {
	[MERGE_MIDDLE] = {
		.name = "merge-middle", .states = 800, .make = a_chain_of_three, .run = merge_middle_run,
		.again = merge_middle_again, .look = merge_middle_holds,
	},
	[MERGE_SEVERAL] = {
		.name = "merge-several", .states = 800, .make = a_chain_of_four, .run = merge_several_run,
		.again = merge_several_again, .look = merge_several_holds,
	},
	[MERGE_LEAF] = {
		.name = "merge-leaf", .states = 800, .make = a_chain_of_three, .run = merge_leaf_run,
		.again = merge_leaf_again, .look = merge_leaf_holds, .leaf_after = "layer-1.vhd",
	},
	[MERGE_LEAF_RENAME] = {
		.name = "merge-leaf-rename", .states = 800, .make = a_chain_of_two, .run = merge_leaf_rename_run,
		.again = merge_leaf_rename_again, .look = merge_leaf_rename_holds,
	},
	[MERGE_AT_REST] = {
		.name = "merge-at-rest", .states = 600, .make = a_chain_of_two, .run = merge_at_rest, .again = merge_at_rest,
		.look = merge_leaf_rename_holds,
	},
	[SWITCH_DISK] = {
		.name = "switch-disk", .states = 800, .make = a_disk, .run = switch_run, .again = switch_run,
		.look = switch_holds,
	},
	[SWITCH_CHAIN] = {
		.name = "switch-chain", .states = 600, .make = a_chain_of_two, .run = switch_run, .again = switch_run,
		.look = switch_holds,
	},
};

static void a_crash_while_a_child_takes_the_place_of_the_leaf(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, SWITCH_DISK);
	crash_scenario_run(scenarios, SWITCH_CHAIN);
}

static void a_crash_while_layers_below_the_leaf_are_merged(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, MERGE_MIDDLE);
	crash_scenario_run(scenarios, MERGE_SEVERAL);
}

static void a_crash_while_the_leaf_is_merged_under_a_writing_guest(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, MERGE_LEAF);
	crash_scenario_run(scenarios, MERGE_LEAF_RENAME);
}

static void a_crash_while_the_leaf_is_merged_that_nobody_uses(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, MERGE_AT_REST);
}

static void without_the_sync_between_the_two_names_the_old_leaf_is_lost(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, SWITCH_DISK, CRASH_NAMES_SYNC(1));
}

static void without_the_sync_after_the_switch_a_flush_of_the_child_is_lost(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, SWITCH_DISK, CRASH_NAMES_SYNC(2));
}

static void without_a_barrier_of_a_merge_something_is_lost(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, MERGE_MIDDLE, STORE_BARRIER_HEADER);
	crash_scenario_without(scenarios, MERGE_MIDDLE, STORE_BARRIER_SWITCH);
	crash_scenario_without(scenarios, MERGE_MIDDLE, STORE_BARRIER_METADATA);
	crash_scenario_without(scenarios, MERGE_LEAF, CRASH_NAMES_SYNC_LAST);
}

static void the_state_that_was_kept(void **state)
{
	(void)state;
	crash_scenario_again(scenarios, sizeof(scenarios) / sizeof(*scenarios), getenv("CRASH_STATE"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_while_a_child_takes_the_place_of_the_leaf),
		cmocka_unit_test(a_crash_while_layers_below_the_leaf_are_merged),
		cmocka_unit_test(a_crash_while_the_leaf_is_merged_under_a_writing_guest),
		cmocka_unit_test(a_crash_while_the_leaf_is_merged_that_nobody_uses),
		cmocka_unit_test(without_the_sync_between_the_two_names_the_old_leaf_is_lost),
		cmocka_unit_test(without_the_sync_after_the_switch_a_flush_of_the_child_is_lost),
		cmocka_unit_test(without_a_barrier_of_a_merge_something_is_lost),
	};
	const struct CMUnitTest again[] = {
		cmocka_unit_test(the_state_that_was_kept),
	};

	if (getenv("CRASH_STATE"))
		return cmocka_run_group_tests(again, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
