/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests on images of every type, compared byte by byte with an array in memory, over fake stores whose I/O
 * completes in any order. tests/test-scribble-file.c does it on real files. SCRIBBLE_REQUESTS: how many in all;
 * SCRIBBLE_SEED: where they start.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/disk.h"
#include "tests/lib/engine.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"

#define CASES 14u

static uint64_t seed_base;
static unsigned requests_each;

static void disk_open(struct disk *disk, bool write, unsigned flags, struct blk **ret)
{
	struct store *stores[DISK_LAYERS];
	struct err err = {""};
	int rc;

	for (unsigned i = 0; i < disk->layers; i++)
		stores[i] = store_memory_open(disk->files[i], flags | (i == 0 && write ? STORE_WRITE : 0));
	rc = engine_open_take(stores, disk->layers, write, ret, &err);
	if (rc)
		fail_msg("open: %d %s", rc, err.text);
}

static void disk_close(struct blk *blk)
{
	struct err err = {""};
	int rc = blk_close(blk, &err);

	if (rc)
		fail_msg("close: %d %s", rc, err.text);
}

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%s", err->text);
}

/* Three rounds with a reopening between them, the last for reading only. */
static void scribble_on(const struct disk_spec *spec, unsigned threads, bool shuffle, unsigned flags)
{
	const struct ring_inline_config config = {.seed = spec->seed, .shuffle = shuffle, .max_delay = shuffle ? 4 : 0};
	struct scribble options = {
		.threads = threads,
		.depth = 16,
		.requests = requests_each / 2,
		.max_length = spec->block_size < 65536 ? 128 << 10 : 512 << 10,
	};
	struct err err = {""};
	struct disk disk;
	struct blk *blk;

	disk_make(spec, &disk);
	ring_inline_configure(&config);
	for (unsigned round = 0; round < 2; round++) {
		disk_open(&disk, true, flags, &blk);
		must(scribble_compare(blk, disk.content, &err), &err);
		options.seed = spec->seed + round;
		must(scribble_run(blk, disk.content, &options, &err), &err);
		must(scribble_compare(blk, disk.content, &err), &err);
		disk_close(blk);
	}
	disk_open(&disk, false, flags, &blk);
	must(scribble_compare(blk, disk.content, &err), &err);
	disk_close(blk);
	disk_done(&disk);
	ring_inline_configure(NULL);
}

static void a_fixed_disk(void **state)
{
	(void)state;
	scribble_on(&(struct disk_spec){.type = DISK_FIXED, .size = 3 << 20, .seed = seed_base}, 3, true, 0);
}

static void dynamic(uint32_t block_size, uint64_t size, unsigned threads, bool shuffle)
{
	struct disk_spec spec = {
		.type = DISK_DYNAMIC, .size = size, .block_size = block_size, .blocks = 5, .seed = seed_base + block_size,
	};

	scribble_on(&spec, threads, shuffle, 0);
}

static void a_dynamic_disk_with_blocks_of_4_kib(void **state)
{
	(void)state;
	dynamic(4096, 2 << 20, 3, true);
}

static void a_dynamic_disk_with_blocks_of_64_kib(void **state)
{
	(void)state;
	dynamic(65536, (8 << 20) + 512 * 7, 3, true);
}

static void a_dynamic_disk_with_blocks_of_512_kib(void **state)
{
	(void)state;
	dynamic(512 << 10, 24 << 20, 2, true);
}

static void a_dynamic_disk_with_blocks_of_2_mib(void **state)
{
	(void)state;
	dynamic(2 << 20, 48 << 20, 2, true);
}

static void a_dynamic_disk_from_one_thread_in_order(void **state)
{
	(void)state;
	dynamic(65536, 4 << 20, 1, false);
}

static void a_foreign_disk_whose_bitmaps_are_partly_set(void **state)
{
	struct disk_spec spec = {
		.type = DISK_DYNAMIC, .size = 1 << 20, .block_size = 16384, .blocks = 16, .partial = true, .stale = true,
		.seed = seed_base + 1,
	};

	(void)state;
	scribble_on(&spec, 3, true, 0);
}

static void differencing(unsigned layers, uint32_t block_size, uint64_t size, unsigned threads, unsigned flags)
{
	struct disk_spec spec = {
		.type = DISK_DIFFERENCING, .size = size, .block_size = block_size, .layers = layers, .blocks = 8,
		.partial = true, .stale = true, .seed = seed_base + layers + block_size,
	};

	scribble_on(&spec, threads, true, flags);
}

static void a_differencing_disk_on_one_parent(void **state)
{
	(void)state;
	differencing(2, 65536, 4 << 20, 3, 0);
}

static void a_differencing_disk_with_blocks_of_4_kib(void **state)
{
	(void)state;
	differencing(2, 4096, 1 << 20, 3, 0);
}

static void a_differencing_disk_with_blocks_of_2_mib(void **state)
{
	(void)state;
	differencing(3, 2 << 20, 32 << 20, 2, 0);
}

static void a_differencing_disk_on_a_chain_of_30(void **state)
{
	(void)state;
	differencing(30, 32768, 2 << 20, 3, 0);
}

static void disks_with_direct_io(void **state)
{
	(void)state;
	differencing(2, 65536, 4 << 20, 2, STORE_DIRECT);
}

/* --- writes that overlap in flight --- */

#define OVERLAP_SIZE (1u << 20)
#define OVERLAP_THREADS 3u
#define OVERLAP_DEPTH 16u

struct overlap {
	struct blk *blk;
	uint64_t seed;
	unsigned thread, phase, requests, in_flight;
	uint8_t *written; /* per sector: this thread wrote it in this phase */
};

struct tag {
	uint64_t phase, thread, number, sector;
};

static void sector_fill(uint8_t *to, struct tag tag)
{
	for (unsigned i = 0; i < BLK_SECTOR_SIZE / sizeof(tag); i++)
		memcpy(to + i * sizeof(tag), &tag, sizeof(tag));
}

static void overlap_done(struct blk_req *req, int result)
{
	struct overlap *o = req->user;

	if (result)
		abort();
	o->in_flight--;
	req->user = NULL;
}

static void *overlap_main(void *arg)
{
	struct overlap *o = arg;
	struct rng rng = rng_fork(o->seed, o->thread + 100 * o->phase);
	struct blk_req reqs[OVERLAP_DEPTH] = {0};
	struct iovec iov[OVERLAP_DEPTH];
	uint8_t *memory[OVERLAP_DEPTH];
	struct blk_queue *queue;

	if (blk_queue_new(o->blk, NULL, &queue, NULL))
		abort();
	for (unsigned i = 0; i < OVERLAP_DEPTH; i++)
		memory[i] = malloc(65536);
	while (o->requests || o->in_flight) {
		for (unsigned i = 0; i < OVERLAP_DEPTH && o->requests; i++) {
			uint64_t first = rng_below(&rng, OVERLAP_SIZE / 512 - 64), count = 1 + rng_below(&rng, 64);

			if (reqs[i].user)
				continue;
			o->requests--;
			for (uint64_t s = 0; s < count; s++) {
				sector_fill(memory[i] + s * 512, (struct tag){o->phase, o->thread, o->requests, first + s});
				o->written[first + s] = 1;
			}
			iov[i] = (struct iovec){memory[i], count * 512};
			reqs[i] = (struct blk_req){
				.op = BLK_WRITE, .offset = first * 512, .length = count * 512, .iov = &iov[i], .iovcnt = 1,
				.done = overlap_done, .user = o,
			};
			o->in_flight++;
			blk_submit(queue, &reqs[i]);
		}
		if (blk_queue_poll(queue, o->in_flight ? 1 : 0, -1) < 0)
			abort();
	}
	blk_queue_free(queue);
	for (unsigned i = 0; i < OVERLAP_DEPTH; i++)
		free(memory[i]);
	return NULL;
}

static void overlap_check(struct blk *blk, unsigned phase, uint8_t *const *written, unsigned *last_phase)
{
	struct blk_queue *queue;
	uint8_t sector[512], expected[512];
	struct tag tag;

	assert_int_equal(blk_queue_new(blk, NULL, &queue, NULL), 0);
	for (unsigned s = 0; s < OVERLAP_SIZE / 512; s++) {
		bool now = false;

		for (unsigned t = 0; t < OVERLAP_THREADS; t++)
			now |= written[t][s];
		if (now)
			last_phase[s] = phase;
		assert_int_equal(blk_pread(queue, sector, 512, s * 512ull), 0);
		if (!last_phase[s])
			continue;
		memcpy(&tag, sector, sizeof(tag));
		sector_fill(expected, tag);
		assert_memory_equal(sector, expected, 512);
		assert_int_equal(tag.phase, last_phase[s]);
		assert_int_equal(tag.sector, s);
		if (now)
			assert_true(tag.thread < OVERLAP_THREADS && written[tag.thread][s]);
	}
	blk_queue_free(queue);
}

static void overlapping(enum disk_type type)
{
	const struct ring_inline_config config = {.seed = seed_base, .shuffle = true, .max_delay = 5};
	struct disk_spec spec = {
		.type = type, .size = OVERLAP_SIZE, .block_size = 32768, .layers = 2, .blocks = 6, .seed = seed_base,
	};
	struct overlap overlap[OVERLAP_THREADS] = {0};
	uint8_t *written[OVERLAP_THREADS];
	unsigned *last_phase = calloc(OVERLAP_SIZE / 512, sizeof(*last_phase));
	pthread_t thread[OVERLAP_THREADS];
	struct disk disk;
	struct blk *blk;

	disk_make(&spec, &disk);
	ring_inline_configure(&config);
	disk_open(&disk, true, 0, &blk);
	for (unsigned t = 0; t < OVERLAP_THREADS; t++)
		written[t] = malloc(OVERLAP_SIZE / 512);
	for (unsigned phase = 1; phase <= 4; phase++) {
		for (unsigned t = 0; t < OVERLAP_THREADS; t++) {
			memset(written[t], 0, OVERLAP_SIZE / 512);
			overlap[t] = (struct overlap){
				.blk = blk, .seed = seed_base, .thread = t, .phase = phase, .written = written[t],
				.requests = 1 + requests_each / 60,
			};
			assert_int_equal(pthread_create(&thread[t], NULL, overlap_main, &overlap[t]), 0);
		}
		for (unsigned t = 0; t < OVERLAP_THREADS; t++)
			pthread_join(thread[t], NULL);
		overlap_check(blk, phase, written, last_phase);
	}
	disk_close(blk);
	for (unsigned t = 0; t < OVERLAP_THREADS; t++)
		free(written[t]);
	free(last_phase);
	disk_done(&disk);
	ring_inline_configure(NULL);
}

static void writes_that_overlap_leave_either_ones_data_sector_by_sector(void **state)
{
	(void)state;
	overlapping(DISK_DYNAMIC);
	overlapping(DISK_DIFFERENCING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_fixed_disk),
		cmocka_unit_test(a_dynamic_disk_with_blocks_of_4_kib),
		cmocka_unit_test(a_dynamic_disk_with_blocks_of_64_kib),
		cmocka_unit_test(a_dynamic_disk_with_blocks_of_512_kib),
		cmocka_unit_test(a_dynamic_disk_with_blocks_of_2_mib),
		cmocka_unit_test(a_dynamic_disk_from_one_thread_in_order),
		cmocka_unit_test(a_foreign_disk_whose_bitmaps_are_partly_set),
		cmocka_unit_test(a_differencing_disk_on_one_parent),
		cmocka_unit_test(a_differencing_disk_with_blocks_of_4_kib),
		cmocka_unit_test(a_differencing_disk_with_blocks_of_2_mib),
		cmocka_unit_test(a_differencing_disk_on_a_chain_of_30),
		cmocka_unit_test(disks_with_direct_io),
		cmocka_unit_test(writes_that_overlap_leave_either_ones_data_sector_by_sector),
	};

	seed_base = environment_number("SCRIBBLE_SEED", 1);
	requests_each = (unsigned)environment_number("SCRIBBLE_REQUESTS", 70000) / CASES;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
