/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Upkeep of a disk in use: random requests from several threads go on, each compared with a plain array, while the leaf
 * is switched to a child, and layers are merged, the leaf among them. On real files. UPKEEP_SEED, UPKEEP_ROUNDS.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/random.h"
#include "tests/lib/scribble.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define PATH_ROOM 4096

static uint64_t seed;
static unsigned rounds;

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

/* A disk with its model, and whoever scribbles on it meanwhile. */
struct bench {
	char *dir;
	char path[PATH_ROOM];
	struct vhd *vhd;
	uint8_t *model;
	pthread_t guest;
	atomic_bool stop;
	int result;
	struct err err;
	unsigned frozen; /* names given so far */
};

static void *guest_main(void *arg)
{
	struct bench *b = arg;
	struct scribble options = {.requests = 400, .threads = 2, .depth = 8, .max_length = 1 << 17};

	while (!atomic_load(&b->stop) && b->result == 0) {
		options.seed = seed++;
		b->result = scribble_run(vhd_blk(b->vhd), b->model, &options, &b->err);
	}
	return NULL;
}

static void bench_open(struct bench *b)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct err err = {""};

	must(vhd_open(b->path, &options, &b->vhd, &err), &err);
}

static void bench_new(struct bench *b, enum vhd_type type, uint64_t size, uint32_t block_size)
{
	struct vhd_create_options options = {.type = type, .size_bytes = size, .block_size_bytes = block_size};
	struct err err = {""};

	memset(b, 0, sizeof(*b));
	b->dir = temp_dir_new("upkeep");
	snprintf(b->path, sizeof(b->path), "%s/disk.vhd", b->dir);
	b->model = calloc(1, size);
	must(vhd_create(b->path, &options, &err), &err);
	bench_open(b);
}

static void guest_start(struct bench *b)
{
	atomic_store(&b->stop, false);
	assert_int_equal(pthread_create(&b->guest, NULL, guest_main, b), 0);
}

static void guest_stop(struct bench *b)
{
	atomic_store(&b->stop, true);
	pthread_join(b->guest, NULL);
	must(b->result, &b->err);
}

static void bench_check(struct bench *b)
{
	struct vhd_check_result result;
	struct err err = {""};

	must(scribble_compare(vhd_blk(b->vhd), b->model, &err), &err);
	must(vhd_close(b->vhd, &err), &err);
	must(vhd_check(b->path, NULL, &result, &err), &err);
	assert_int_equal(result.warnings, 0);
	bench_open(b);
	must(scribble_compare(vhd_blk(b->vhd), b->model, &err), &err);
}

static void bench_done(struct bench *b)
{
	struct err err = {""};

	must(vhd_close(b->vhd, &err), &err);
	temp_dir_free(b->dir);
	free(b->model);
}

static void snapshot(struct bench *b)
{
	struct vhd_child *child;
	struct err err = {""};
	char name[32];

	snprintf(name, sizeof(name), "frozen-%u.vhd", b->frozen++);
	must(vhd_child_prepare(b->vhd, name, &child, &err), &err);
	must(vhd_switch_child(b->vhd, child, &err), &err);
}

static void merge(struct bench *b, unsigned layer, unsigned into)
{
	struct vhd_merge_options options = {.layer = layer, .into = into, .rename = layer == 0};
	struct vhd_merge_result result;
	struct err err = {""};

	must(vhd_merge(b->vhd, &options, &result, &err), &err);
	assert_true(result.written_bytes <= result.merged_bytes);
}

static unsigned files_in(const char *dir)
{
	char command[PATH_ROOM + 32];
	unsigned n = 0;
	FILE *f;

	snprintf(command, sizeof(command), "ls '%s' | wc -l", dir);
	f = popen(command, "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%u", &n), 1);
	pclose(f);
	return n;
}

static void the_leaf_is_switched_to_a_child_and_merged_back_under_a_guest(void **state)
{
	struct bench b;

	(void)state;
	bench_new(&b, VHD_DYNAMIC, 24 << 20, 65536);
	guest_start(&b);
	for (unsigned i = 0; i < rounds; i++) {
		snapshot(&b);
		assert_int_equal(vhd_layer_count(b.vhd), 2);
		usleep(20000);
		merge(&b, 0, 1);
		assert_int_equal(vhd_layer_count(b.vhd), 1);
	}
	guest_stop(&b);
	bench_check(&b);
	assert_int_equal(files_in(b.dir), 1);
	bench_done(&b);
}

static void chains_grow_and_shrink_at_random_under_a_guest(void **state)
{
	static const enum vhd_type types[] = {VHD_DYNAMIC, VHD_FIXED};
	struct rng rng = rng_fork(seed, 0);

	(void)state;
	for (unsigned t = 0; t < 2; t++) {
		struct bench b;

		bench_new(&b, types[t], 24 << 20, t ? 0 : 16384);
		guest_start(&b);
		for (unsigned i = 0; i < rounds * 2; i++) {
			unsigned count = vhd_layer_count(b.vhd);

			if (count < 2 || (count < 6 && rng_percent(&rng, 50))) {
				snapshot(&b);
			} else {
				unsigned layer = (unsigned)rng_below(&rng, count - 1);

				unsigned into = layer + 1 + (unsigned)rng_below(&rng, count - 1 - layer);

				merge(&b, layer, into);
			}
		}
		guest_stop(&b);
		assert_int_equal(files_in(b.dir), vhd_layer_count(b.vhd));
		bench_check(&b);
		guest_start(&b);
		while (vhd_layer_count(b.vhd) > 1)
			merge(&b, 0, vhd_layer_count(b.vhd) - 1);
		guest_stop(&b);
		bench_check(&b);
		assert_int_equal(files_in(b.dir), 1);
		bench_done(&b);
	}
}

/* The whole disk, as another process would see it. */
static uint8_t *content_of(const char *path, uint64_t size)
{
	struct blk_queue *queue;
	struct err err = {""};
	struct vhd *vhd;
	uint8_t *content = malloc(size);

	must(vhd_open(path, NULL, &vhd, &err), &err);
	must(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), &err);
	must(blk_pread(queue, content, size, 0), &err);
	blk_queue_free(queue);
	must(vhd_close(vhd, &err), &err);
	return content;
}

static void what_was_frozen_does_not_change_any_more(void **state)
{
	const uint64_t size = 8 << 20;
	struct bench b;

	(void)state;
	bench_new(&b, VHD_DYNAMIC, size, 65536);
	guest_start(&b);
	usleep(50000);
	for (unsigned i = 0; i < 4; i++) {
		uint8_t *first, *second;
		char path[PATH_ROOM + 32];

		snapshot(&b);
		snprintf(path, sizeof(path), "%s/frozen-%u.vhd", b.dir, i);
		first = content_of(path, size);
		usleep(50000);
		second = content_of(path, size);
		assert_memory_equal(first, second, size);
		free(first);
		free(second);
	}
	guest_stop(&b);
	bench_check(&b);
	bench_done(&b);
}

static void a_leaf_that_nobody_uses_is_copied(void **state)
{
	struct vhd_merge_options options = {.idle = true};
	struct scribble scribble = {.seed = seed++, .requests = 500, .threads = 1, .depth = 4};
	struct vhd_merge_result result;
	struct err err = {""};
	struct bench b;

	(void)state;
	bench_new(&b, VHD_DYNAMIC, 8 << 20, 65536);
	must(scribble_run(vhd_blk(b.vhd), b.model, &scribble, &err), &err);
	snapshot(&b);
	scribble.seed = seed++;
	must(scribble_run(vhd_blk(b.vhd), b.model, &scribble, &err), &err);
	must(vhd_merge(b.vhd, &options, &result, &err), &err);
	assert_int_equal(vhd_layer_count(b.vhd), 1);
	assert_true(access(b.path, F_OK) < 0 && errno == ENOENT);
	must(scribble_compare(vhd_blk(b.vhd), b.model, &err), &err);
	scribble.seed = seed++;
	must(scribble_run(vhd_blk(b.vhd), b.model, &scribble, &err), &err);
	snprintf(b.path, sizeof(b.path), "%s/frozen-0.vhd", b.dir);
	bench_check(&b);
	bench_done(&b);
}

static void a_parent_that_is_smaller_grows_with_the_merge(void **state)
{
	static const enum vhd_type types[] = {VHD_DYNAMIC, VHD_FIXED};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		const uint64_t size = 4 << 20, larger = 12 << 20;
		struct err err = {""};
		struct bench b;

		bench_new(&b, types[i / 2], size, i / 2 ? 0 : 4096);
		guest_start(&b);
		usleep(20000);
		snapshot(&b);
		usleep(20000);
		if (i % 2)
			snapshot(&b);
		guest_stop(&b);
		must(vhd_resize(b.vhd, larger, NULL, NULL, &err), &err);
		b.model = realloc(b.model, larger);
		memset(b.model + size, 0, larger - size);
		guest_start(&b);
		usleep(20000);
		if (i % 2)
			snapshot(&b); /* merged as a middle layer */
		merge(&b, i % 2, i % 2 + 1);
		guest_stop(&b);
		bench_check(&b);
		bench_done(&b);
	}
}

struct cancelled {
	struct vhd_job *job;
	unsigned after_ms;
};

static void *cancel_main(void *arg)
{
	struct cancelled *c = arg;

	usleep(c->after_ms * 1000);
	vhd_job_cancel(c->job);
	return NULL;
}

static void a_cancelled_merge_goes_on_when_asked_again(void **state)
{
	struct vhd_merge_options options = {.rename = true};
	struct err err = {""};
	struct bench b;
	unsigned cancelled = 0;

	(void)state;
	bench_new(&b, VHD_DYNAMIC, 24 << 20, 65536);
	guest_start(&b);
	for (unsigned i = 0; i < 6; i++) {
		struct cancelled c = {.after_ms = i};
		pthread_t thread;
		int rc;

		snapshot(&b);
		usleep(30000);
		must(vhd_job_new(&c.job, &err), &err);
		vhd_job_set_rate(c.job, 64 << 20);
		options.job = c.job;
		assert_int_equal(pthread_create(&thread, NULL, cancel_main, &c), 0);
		rc = vhd_merge(b.vhd, &options, NULL, &err);
		pthread_join(thread, NULL);
		vhd_job_free(c.job);
		if (rc == -ECANCELED)
			cancelled++;
		else
			must(rc, &err);
	}
	assert_true(cancelled > 0);
	guest_stop(&b);
	bench_check(&b);
	guest_start(&b);
	while (vhd_layer_count(b.vhd) > 1)
		merge(&b, 0, 1);
	guest_stop(&b);
	bench_check(&b);
	bench_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_frozen_does_not_change_any_more),
		cmocka_unit_test(a_leaf_that_nobody_uses_is_copied),
		cmocka_unit_test(the_leaf_is_switched_to_a_child_and_merged_back_under_a_guest),
		cmocka_unit_test(chains_grow_and_shrink_at_random_under_a_guest),
		cmocka_unit_test(a_parent_that_is_smaller_grows_with_the_merge),
		cmocka_unit_test(a_cancelled_merge_goes_on_when_asked_again),
	};

	seed = environment_number("UPKEEP_SEED", 1);
	rounds = (unsigned)environment_number("UPKEEP_ROUNDS", 12);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
