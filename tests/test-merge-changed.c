/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What merged layers had changed stays known: the list of what changed since each state that ever was, after each of
 * many random merges, covers what really differs; or the state is said not to be known.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/random.h"
#include "tests/lib/scribble.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define SIZE (2u << 20)
#define STATES 14u
#define PATH_ROOM 4096

struct state {
	uint8_t uuid[16];
	uint8_t *content;
	bool known; /* it must be */
};

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

struct cover {
	const uint8_t *then, *now;
	uint64_t at; /* what is not listed before this is the same */
};

static int covered(void *user, const struct vhd_extent *extent)
{
	struct cover *c = user;

	assert_memory_equal(c->then + c->at, c->now + c->at, extent->offset - c->at);
	c->at = extent->offset + extent->length;
	return 0;
}

static int check_state(const char *path, const struct state *state, const uint8_t *now)
{
	struct cover cover = {.then = state->content, .now = now};
	struct vhd_changed_options options = {.since = state->uuid, .extent = covered, .user = &cover};
	struct vhd_changed_result result;
	struct err err = {""};
	int rc = vhd_changed(path, &options, &result, &err);

	if (rc == VHD_E_UNKNOWN_BASE)
		return rc;
	must(rc, &err);
	assert_memory_equal(cover.then + cover.at, now + cover.at, SIZE - cover.at);
	return 0;
}

static void open_disk(const char *path, struct vhd **ret)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct err err = {""};

	must(vhd_open(path, &options, ret, &err), &err);
}

static void scribble(struct vhd *vhd, uint8_t *model, uint64_t seed)
{
	struct scribble options = {.seed = seed, .requests = 12, .threads = 1, .depth = 4, .max_length = 65536};
	struct err err = {""};

	must(scribble_run(vhd_blk(vhd), model, &options, &err), &err);
}

static void freeze(struct vhd *vhd, const char *name, struct state *ret, const uint8_t *model)
{
	struct vhd_child *child;
	struct vhd_info info;
	struct err err = {""};

	vhd_layer_info(vhd, 0, &info);
	memcpy(ret->uuid, info.uuid, sizeof(ret->uuid));
	ret->content = malloc(SIZE);
	memcpy(ret->content, model, SIZE);
	ret->known = true;
	must(vhd_child_prepare(vhd, name, &child, &err), &err);
	must(vhd_switch_child(vhd, child, &err), &err);
}

static void run(uint64_t seed, bool idle_leaf)
{
	struct rng rng = rng_fork(seed, 1);
	struct state states[STATES];
	unsigned known = 0, unknown = 0;
	char *dir = temp_dir_new("merge-changed"), path[PATH_ROOM];
	uint8_t *model = calloc(1, SIZE);
	struct err err = {""};
	struct vhd *vhd;

	snprintf(path, sizeof(path), "%s/disk.vhd", dir);
	must(vhd_create(path, &(struct vhd_create_options){.size_bytes = SIZE, .block_size_bytes = 16384}, &err), &err);
	open_disk(path, &vhd);
	for (unsigned i = 0; i < STATES; i++) {
		char name[32];

		scribble(vhd, model, seed * 1000 + i);
		snprintf(name, sizeof(name), "state-%u.vhd", i);
		freeze(vhd, name, &states[i], model);
		scribble(vhd, model, seed * 1000 + 500 + i);
		while (vhd_layer_count(vhd) > 2 && rng_percent(&rng, 60)) {
			unsigned count = vhd_layer_count(vhd);
			unsigned layer = 1 + (unsigned)rng_below(&rng, count - 2);
			struct vhd_merge_options options = {.layer = layer, .into = layer + 1};

			must(vhd_merge(vhd, &options, NULL, &err), &err);
		}
		if (idle_leaf && i + 1 == STATES)
			must(vhd_merge(vhd, &(struct vhd_merge_options){.idle = true, .rename = true}, NULL, &err), &err);
		must(vhd_close(vhd, &err), &err);
		for (unsigned s = 0; s <= i; s++) {
			if (check_state(path, &states[s], model) == 0) {
				known++;
			} else {
				assert_false(states[s].known);
				unknown++;
			}
		}
		open_disk(path, &vhd);
	}
	must(scribble_compare(vhd_blk(vhd), model, &err), &err);
	if (idle_leaf) { /* written to: nothing is known of it any more */
		scribble(vhd, model, seed);
		must(vhd_close(vhd, &err), &err);
		assert_int_equal(check_state(path, &states[STATES - 1], model), VHD_E_UNKNOWN_BASE);
	} else {
		must(vhd_close(vhd, &err), &err);
	}
	assert_true(known > STATES);
	assert_int_equal(unknown, 0);
	for (unsigned s = 0; s < STATES; s++)
		free(states[s].content);
	free(model);
	temp_dir_free(dir);
}

static void of_layers_that_are_not_the_leaf(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 2; seed++)
		run(seed, false);
}

static void of_a_leaf_that_nobody_used_until_it_is_written_to(void **state)
{
	(void)state;
	run(7, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_layers_that_are_not_the_leaf),
		cmocka_unit_test(of_a_leaf_that_nobody_used_until_it_is_written_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
