/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power failures during operations on real files, recorded with all that is done to their names: creating images,
 * writing to them, and the recovery from a crash (tests/lib/crash-files.h says what must hold, and what the environment
 * may choose).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/crash-files.h"
#include "tests/lib/image-builder.h"
#include "tests/lib/random.h"

#define SIZE (256u << 10)
#define BLOCK CRASH_BLOCK

static const struct vhd_create_options fixed = {.type = VHD_FIXED, .size_bytes = 96u << 10};
static const struct vhd_create_options dynamic = {.type = VHD_DYNAMIC, .size_bytes = SIZE, .block_size_bytes = BLOCK};
static const struct vhd_create_options child = {.type = VHD_DIFFERENCING, .block_size_bytes = BLOCK};

/* --- creating --- */

static void nothing(struct crash_files *c)
{
	(void)c;
}

static void a_parent(struct crash_files *c)
{
	crash_make(c, "base.vhd", NULL, &dynamic);
	crash_fill(c, "base.vhd", c->seed, 30);
}

static int create(struct crash_files *c, const char *parent, const struct vhd_create_options *options, struct err *err)
{
	struct vhd_create_options all = *options;
	char *path = crash_path(c, CRASH_LEAF), *above = parent ? crash_path(c, parent) : NULL;
	int rc;

	all.parent = above;
	rc = vhd_create(path, &all, err);
	free(path);
	free(above);
	return rc;
}

static int create_fixed(struct crash_files *c, struct err *err)
{
	return create(c, NULL, &fixed, err);
}

static int create_dynamic(struct crash_files *c, struct err *err)
{
	return create(c, NULL, &dynamic, err);
}

static int create_child(struct crash_files *c, struct err *err)
{
	return create(c, "base.vhd", &child, err);
}

static int all_zeros(const uint8_t *content, uint64_t size, struct err *err)
{
	for (uint64_t i = 0; i < size; i++)
		if (content[i])
			return err_set(err, -EILSEQ, "byte %" PRIu64 " of a new disk is not zero", i);
	return 0;
}

static int is_empty(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)
{
	(void)c;
	return content ? all_zeros(content, size, err) : 0;
}

static int is_as_its_parent(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)
{
	uint64_t parent_size;
	uint8_t *parent;
	int rc = crash_read(c, "base.vhd", &parent, &parent_size, err);

	if (rc)
		return rc;
	if (content && (size != parent_size || memcmp(content, parent, size)))
		rc = err_set(err, -EILSEQ, "a new child does not read as its parent");
	free(parent);
	return rc;
}

#define OTHER_SIZE (320u << 10)

static void something_to_replace(struct crash_files *c)
{
	crash_make(c, CRASH_LEAF, NULL, &dynamic);
	crash_fill(c, CRASH_LEAF, c->seed, 30);
}

static int create_over_it(struct crash_files *c, struct err *err)
{
	struct vhd_create_options options = dynamic;

	options.overwrite = true;
	options.size_bytes = OTHER_SIZE;
	return create(c, NULL, &options, err);
}

static int is_the_old_or_the_new(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)
{
	if (size == OTHER_SIZE)
		return all_zeros(content, size, err);
	return memcmp(content, c->first, size) ? err_set(err, -EILSEQ, "what was to be replaced has changed") : 0;
}

/* --- writing --- */

static void a_dynamic_disk(struct crash_files *c)
{
	/* With room for many new blocks. */
	crash_make_chain(c, 1, 2 * SIZE);
}

static void a_fixed_disk(struct crash_files *c)
{
	crash_make(c, CRASH_LEAF, NULL, &fixed);
	crash_fill(c, CRASH_LEAF, c->seed, 10);
}

static void a_chain_of_three(struct crash_files *c)
{
	crash_make_chain(c, 3, SIZE);
}

/* As Xen's tools make them: a batmap behind the BAT, and blocks that are partly written. */
static void a_disk_with_a_batmap(struct crash_files *c)
{
	struct image_spec spec = {.size = SIZE, .block_size = BLOCK, .uuid_seed = 1, .creator = "tap", .batmap = true};
	struct rng rng = rng_fork(c->seed, 3);
	char *path = crash_path(c, CRASH_LEAF);
	struct image image;

	for (unsigned i = 0; i < 9; i++)
		spec.blocks[spec.block_count++] = (struct image_block){
			.index = 3 * i + (uint32_t)rng_below(&rng, 3),
			.clear = rng_percent(&rng, 50) ? (uint8_t)rng_next(&rng) : 0,
			.seed = (uint8_t)(rng_next(&rng) | 1),
		};
	image_build(&spec, &image);
	assert_int_equal(image_write(&image, path), 0);
	image_free(&image);
	free(path);
}

static void a_child_of_a_raw_disk(struct crash_files *c)
{
	struct vhd_create_options options = child;
	char *path = crash_path(c, "base.raw");
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	uint8_t sector[512];

	for (unsigned i = 0; i < SIZE / sizeof(sector); i++) {
		memset(sector, (int)(i * 7 + c->seed) | 1, sizeof(sector));
		assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
	}
	close(fd);
	free(path);
	options.parent_raw = true;
	crash_make(c, CRASH_LEAF, "base.raw", &options);
	crash_fill(c, CRASH_LEAF, c->seed, 8);
}

static int write_and_close(struct crash_files *c, struct err *err)
{
	struct vhd *vhd;
	int rc = crash_open(c, &vhd, err), closing;

	if (rc)
		return rc;
	rc = crash_guest(c, vhd, 150, err);
	closing = crash_close(c, vhd, rc ? NULL : err);
	return rc ? rc : closing;
}

enum { CREATE_FIXED, CREATE_DYNAMIC, CREATE_CHILD, CREATE_OVER, WRITE_DYNAMIC, WRITE_FIXED, WRITE_CHAIN, WRITE_BATMAP, WRITE_RAW_PARENT };

static const struct crash_scenario scenarios[] = {
	[CREATE_FIXED] = {
		.name = "create-fixed", .states = 150, .make = nothing, .run = create_fixed, .look = is_empty, .no_leaf = true,
		.own_content = true,
	},
	[CREATE_DYNAMIC] = {
		.name = "create-dynamic", .states = 300, .make = nothing, .run = create_dynamic, .look = is_empty,
		.no_leaf = true, .own_content = true,
	},
	[CREATE_CHILD] = {
		.name = "create-child", .states = 400, .make = a_parent, .run = create_child, .look = is_as_its_parent,
		.no_leaf = true, .own_content = true,
	},
	[CREATE_OVER] = {
		.name = "create-over", .states = 400, .make = something_to_replace, .run = create_over_it,
		.look = is_the_old_or_the_new, .own_content = true, .size_after = OTHER_SIZE,
	},
	[WRITE_DYNAMIC] = {.name = "write-dynamic", .states = 700, .make = a_dynamic_disk, .run = write_and_close},
	[WRITE_FIXED] = {.name = "write-fixed", .states = 300, .make = a_fixed_disk, .run = write_and_close},
	[WRITE_CHAIN] = {.name = "write-chain", .states = 700, .make = a_chain_of_three, .run = write_and_close},
	[WRITE_BATMAP] = {.name = "write-batmap", .states = 700, .make = a_disk_with_a_batmap, .run = write_and_close},
	[WRITE_RAW_PARENT] = {
		.name = "write-raw-parent", .states = 500, .make = a_child_of_a_raw_disk, .run = write_and_close,
	},
};

static void a_crash_while_an_image_is_created(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, CREATE_FIXED);
	crash_scenario_run(scenarios, CREATE_DYNAMIC);
	crash_scenario_run(scenarios, CREATE_CHILD);
}

static void a_crash_while_an_image_is_replaced(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, CREATE_OVER);
}

static void a_crash_while_a_disk_is_written_to_and_one_while_it_recovers(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, WRITE_DYNAMIC);
	crash_scenario_run(scenarios, WRITE_FIXED);
}

static void a_crash_in_a_chain_and_one_while_it_recovers(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, WRITE_CHAIN);
	crash_scenario_run(scenarios, WRITE_RAW_PARENT);
}

static void a_crash_in_a_disk_with_a_batmap_and_one_while_it_recovers(void **state)
{
	(void)state;
	crash_scenario_run(scenarios, WRITE_BATMAP);
}

static void without_the_sync_of_a_new_file_its_name_comes_before_its_content(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, CREATE_DYNAMIC, STORE_BARRIER_NEW_FILE);
	crash_scenario_without(scenarios, CREATE_CHILD, STORE_BARRIER_NEW_FILE);
	crash_scenario_without(scenarios, CREATE_OVER, STORE_BARRIER_NEW_FILE);
}

static void without_the_sync_of_the_folder_a_new_file_has_no_name(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, CREATE_DYNAMIC, CRASH_NAMES_SYNC(0));
	crash_scenario_without(scenarios, CREATE_CHILD, CRASH_NAMES_SYNC(0));
	crash_scenario_without(scenarios, CREATE_OVER, CRASH_NAMES_SYNC(0));
}

static void without_a_barrier_of_writing_something_is_lost(void **state)
{
	(void)state;
	crash_scenario_without(scenarios, WRITE_DYNAMIC, STORE_BARRIER_METADATA);
	crash_scenario_without(scenarios, WRITE_CHAIN, STORE_BARRIER_DATA);
	crash_scenario_without(scenarios, WRITE_DYNAMIC, STORE_BARRIER_SLOTS);
	crash_scenario_without(scenarios, WRITE_DYNAMIC, STORE_BARRIER_FOOTER);
	crash_scenario_without(scenarios, WRITE_DYNAMIC, STORE_BARRIER_CLOSE);
}

static void the_state_that_was_kept(void **state)
{
	(void)state;
	crash_scenario_again(scenarios, sizeof(scenarios) / sizeof(*scenarios), getenv("CRASH_STATE"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_while_an_image_is_created),
		cmocka_unit_test(a_crash_while_an_image_is_replaced),
		cmocka_unit_test(a_crash_while_a_disk_is_written_to_and_one_while_it_recovers),
		cmocka_unit_test(a_crash_in_a_chain_and_one_while_it_recovers),
		cmocka_unit_test(a_crash_in_a_disk_with_a_batmap_and_one_while_it_recovers),
		cmocka_unit_test(without_the_sync_of_a_new_file_its_name_comes_before_its_content),
		cmocka_unit_test(without_the_sync_of_the_folder_a_new_file_has_no_name),
		cmocka_unit_test(without_a_barrier_of_writing_something_is_lost),
	};
	const struct CMUnitTest again[] = {
		cmocka_unit_test(the_state_that_was_kept),
	};

	if (getenv("CRASH_STATE"))
		return cmocka_run_group_tests(again, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
