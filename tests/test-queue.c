/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What callers of queues count on: vhd/queue.c, vhd/read.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/disk.h"
#include "tests/lib/engine.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/store-fault.h"

static const struct disk_spec empty = {.type = DISK_DYNAMIC, .size = 256 << 10, .block_size = 8192, .seed = 5};

static struct blk *open_leaf(struct disk *disk, uint32_t offset_align)
{
	struct store *store = store_memory_open(disk->files[0], STORE_WRITE | (offset_align > 1 ? STORE_DIRECT : 0));
	struct blk *blk;
	struct err err;

	if (offset_align > 1)
		store->offset_align = offset_align;
	if (engine_open_take(&store, 1, true, &blk, &err))
		fail_msg("%s", err.text);
	return blk;
}

static struct blk_queue *open_queue(struct blk *blk, struct ring *ring)
{
	struct blk_queue *queue;
	struct err err;

	if (blk_queue_new(blk, ring, &queue, &err))
		fail_msg("%s", err.text);
	return queue;
}

/* Bitmaps are 512 bytes in front of aligned data; a device with sectors of 4096 bytes reads nothing so short. */
static void direct_io_in_4096_bytes_reads_bitmaps(void **state)
{
	struct disk disk;
	uint8_t out[8192], in[8192];
	struct err err;

	(void)state;
	disk_make(&empty, &disk);
	memset(out, 0x5a, sizeof(out));
	for (unsigned session = 0; session < 3; session++) {
		struct blk *blk = open_leaf(&disk, 4096);
		struct blk_queue *queue = open_queue(blk, NULL);

		for (unsigned block = 0; block < session; block++) {
			assert_int_equal(blk_pread(queue, in, sizeof(in), block * sizeof(in)), 0);
			assert_memory_equal(in, out, sizeof(in));
		}
		for (unsigned block = 0; block <= session; block++)
			assert_int_equal(blk_pwrite(queue, out, sizeof(out), block * sizeof(out)), 0);
		blk_queue_free(queue);
		assert_int_equal(blk_close(blk, &err), 0);
	}
	disk_done(&disk);
}

struct again {
	struct blk_req req;
	struct blk_queue *queue;
	unsigned left;
	bool done;
};

static void submit_again(struct blk_req *req, int result)
{
	struct again *a = req->user;

	assert_int_equal(result, 0);
	if (a->left == 0) {
		a->done = true;
		return;
	}
	a->left--;
	blk_submit(a->queue, req);
}

/* Reads of what was never written need no I/O: they are done as soon as they are submitted. */
static void poll_returns_though_each_done_submits_another(void **state)
{
	uint8_t memory[4096];
	struct iovec iov = {memory, sizeof(memory)};
	struct again a = {.left = 100000};
	struct pollfd fd = {.events = POLLIN};
	struct disk disk;
	struct blk *blk;
	struct err err;

	(void)state;
	disk_make(&empty, &disk);
	blk = open_leaf(&disk, 1);
	a.queue = open_queue(blk, NULL);
	a.req = (struct blk_req){.op = BLK_READ, .length = sizeof(memory), .iov = &iov, .iovcnt = 1, .done = submit_again,
	                         .user = &a};
	blk_submit(a.queue, &a.req);
	assert_in_range(blk_queue_poll(a.queue, 1, -1), 1, 1000);
	assert_in_range(blk_queue_poll(a.queue, 0, 0), 1, 1000);
	assert_false(a.done);
	a.left = 20;
	fd.fd = a.queue->fd;
	while (!a.done) {
		assert_true(blk_queue_poll(a.queue, 0, 0) >= 0);
		if (!a.done)
			assert_int_equal(poll(&fd, 1, 5000), 1);
	}
	blk_queue_free(a.queue);
	assert_int_equal(blk_close(blk, &err), 0);
	disk_done(&disk);
}

/* Each poll reaps what the other queue's requests wait for. */
static void a_sleeper_on_the_ring_of_two_queues_misses_nothing(void **state)
{
	const struct ring_inline_config config = {.seed = 3, .max_delay = 2};
	struct disk disks[2];
	struct blk *blk[2];
	struct again a[2];
	uint8_t memory[2][4096];
	struct iovec iov[2];
	struct ring *ring;
	struct pollfd fd = {.events = POLLIN};
	struct err err;

	(void)state;
	ring_inline_configure(&config);
	assert_int_equal(ring_inline_new(&ring, &err), 0);
	fd.fd = ring->fd;
	for (unsigned i = 0; i < 2; i++) {
		disk_make(&empty, &disks[i]);
		blk[i] = open_leaf(&disks[i], 1);
		memset(memory[i], 0x11, sizeof(memory[i]));
		iov[i] = (struct iovec){memory[i], sizeof(memory[i])};
		a[i] = (struct again){.queue = open_queue(blk[i], ring)};
		a[i].req = (struct blk_req){.op = BLK_WRITE, .length = sizeof(memory[i]), .iov = &iov[i], .iovcnt = 1,
		                            .done = submit_again, .user = &a[i]};
	}
	for (unsigned round = 0; round < 50; round++) {
		for (unsigned i = 0; i < 2; i++) {
			a[i].done = false;
			blk_submit(a[i].queue, &a[i].req);
		}
		for (;;) {
			for (unsigned i = 0; i < 2; i++)
				assert_true(blk_queue_poll(a[i].queue, 0, 0) >= 0);
			if (a[0].done && a[1].done)
				break;
			assert_int_equal(poll(&fd, 1, 5000), 1);
		}
	}
	for (unsigned i = 0; i < 2; i++) {
		blk_queue_free(a[i].queue);
		assert_int_equal(blk_close(blk[i], &err), 0);
		disk_done(&disks[i]);
	}
	ring_free(ring);
	ring_inline_configure(NULL);
}

static uint64_t find_block(struct blk *blk, enum blk_extent_kind kind, uint64_t from)
{
	for (uint64_t at = from; at < empty.size; at += empty.block_size) {
		struct blk_extent extent;
		struct err err;

		assert_int_equal(blk_map(blk, at, empty.block_size, &extent, 1, &err), 1);
		blk_unmap(blk);
		if (extent.kind == kind)
			return at;
	}
	fail_msg("no such block");
	return 0;
}

/* A read that began before the discard may still need the block: so long the write that needs its space waits. */
static void where_space_ran_out_a_write_waits_for_what_was_just_discarded(void **state)
{
	struct disk_spec spec = empty;
	struct fault_plan plan;
	struct disk disk;
	struct store *store;
	struct blk *blk;
	struct blk_queue *queue;
	struct again reading = {0}, writing = {0};
	uint8_t memory[2][4096] = {{0}, {1}};
	struct iovec iov[2] = {{memory[0], 4096}, {memory[1], 4096}};
	uint64_t block;
	struct err err;

	(void)state;
	spec.blocks = 6;
	disk_make(&spec, &disk);
	fault_plan_init(&plan);
	store = store_fault_open_take(store_memory_open(disk.files[0], STORE_WRITE), &plan);
	assert_int_equal(engine_open_take(&store, 1, true, &blk, &err), 0);
	reading.queue = open_queue(blk, NULL);
	queue = writing.queue = open_queue(blk, NULL);
	fault_plan_arm(&plan, FAULT_ALLOCATE, 0, UINT_MAX, -ENOSPC, false);

	block = find_block(blk, BLK_EXTENT_DATA, 0);
	reading.req = (struct blk_req){.op = BLK_READ, .offset = block, .length = 4096, .iov = &iov[0], .iovcnt = 1,
	                               .done = submit_again, .user = &reading};
	blk_submit(reading.queue, &reading.req);
	assert_int_equal(blk_discard(queue, block, spec.block_size), 0);
	block = find_block(blk, BLK_EXTENT_ZERO, block + spec.block_size);
	writing.req = (struct blk_req){.op = BLK_WRITE, .offset = block, .length = 4096, .iov = &iov[1], .iovcnt = 1,
	                               .done = submit_again, .user = &writing};
	blk_submit(queue, &writing.req);
	assert_int_equal(blk_queue_poll(queue, 1, 100), 0);
	assert_int_equal(blk_flush(queue), 0);
	assert_false(writing.done);
	while (!reading.done)
		assert_true(blk_queue_poll(reading.queue, 1, 5000) > 0);
	while (!writing.done)
		assert_true(blk_queue_poll(queue, 1, 5000) > 0);
	assert_int_equal(blk_pwrite(queue, memory[1], 4096, find_block(blk, BLK_EXTENT_ZERO, 0)), -ENOSPC);

	blk_queue_free(reading.queue);
	blk_queue_free(queue);
	assert_int_equal(blk_close(blk, &err), 0);
	fault_plan_done(&plan);
	disk_done(&disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(direct_io_in_4096_bytes_reads_bitmaps),
		cmocka_unit_test(poll_returns_though_each_done_submits_another),
		cmocka_unit_test(a_sleeper_on_the_ring_of_two_queues_misses_nothing),
		cmocka_unit_test(where_space_ran_out_a_write_waits_for_what_was_just_discarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
