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

enum { SWITCH_DISK, SWITCH_CHAIN };

static const struct crash_scenario scenarios[] = {
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

static void the_state_that_was_kept(void **state)
{
	(void)state;
	crash_scenario_again(scenarios, sizeof(scenarios) / sizeof(*scenarios), getenv("CRASH_STATE"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_while_a_child_takes_the_place_of_the_leaf),
		cmocka_unit_test(without_the_sync_between_the_two_names_the_old_leaf_is_lost),
		cmocka_unit_test(without_the_sync_after_the_switch_a_flush_of_the_child_is_lost),
	};
	const struct CMUnitTest again[] = {
		cmocka_unit_test(the_state_that_was_kept),
	};

	if (getenv("CRASH_STATE"))
		return cmocka_run_group_tests(again, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
