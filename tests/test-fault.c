/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every read, write, sync, allocation, punch and truncation of a run fails in turn, once or from then on. Whatever
 * fails: each request tells the truth about itself, nothing that was done is lost, what failed has left old or new
 * data, and once the fault is gone work goes on; except after a failed sync, when nothing may be called flushed again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "tests/lib/disk.h"
#include "tests/lib/engine.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"
#include "tests/lib/store-fault.h"

#define REQUESTS 60u
#ifdef __SANITIZE_THREAD__
#define RUNS_EACH 10u /* each takes ten times as long */
#else
#define RUNS_EACH 60u
#endif

struct fault_case {
	struct disk_spec disk;
	enum fault_op op;
	unsigned first, count;
	int error;
	bool partial;
	bool armed_at_close;
};

struct run {
	const struct fault_case *fault;
	struct disk disk;
	struct fault_plan plan;
	struct model model;
	uint8_t *first, *content;
	struct blk *blk;
	struct blk_queue *queue;
	struct rng rng;
	uint32_t last_id;
	bool sync_failed;
};

static void complain(const struct run *r, const char *what, int rc, const char *detail)
{
	const struct fault_case *f = r->fault;

	fail_msg("type %d, %s %u%s failing with %s%s: %s: %d %s", f->disk.type, fault_op_name(f->op), f->first,
	         f->count > 1 ? " and all later" : "", strerror(-f->error), f->armed_at_close ? ", also at close" : "", what, rc,
	         detail);
}

static int run_open(struct run *r, bool write, bool faulty, struct err *err)
{
	struct store *stores[DISK_LAYERS];

	for (unsigned i = 0; i < r->disk.layers; i++) {
		stores[i] = store_memory_open(r->disk.files[i], i == 0 && write ? STORE_WRITE : 0);
		if (faulty)
			stores[i] = store_fault_open_take(stores[i], &r->plan);
	}
	return engine_open_take(stores, r->disk.layers, write, &r->blk, err);
}

struct outcome {
	struct blk_req req;
	struct run *run;
	uint32_t id;
	int result;
	bool done;
};

static void outcome_done(struct blk_req *req, int result)
{
	struct outcome *o = req->user;
	struct model_event event = {.kind = MODEL_DONE, .id = o->id, .result = result};

	model_note(&o->run->model, &event);
	o->result = result;
	o->done = true;
}

static void request_start(struct run *r, struct outcome *o, uint8_t op, uint64_t sector, uint64_t sectors, void *memory,
                          struct iovec *iov)
{
	struct model_event event = {.kind = MODEL_SUBMIT, .id = ++r->last_id, .op = op};

	*o = (struct outcome){.run = r, .id = r->last_id};
	o->req = (struct blk_req){.op = op, .done = outcome_done, .user = o};
	if (op != BLK_FLUSH) {
		o->req.offset = event.offset = sector * 512;
		o->req.length = event.length = sectors * 512;
	}
	if (op <= BLK_WRITE) {
		*iov = (struct iovec){memory, sectors * 512};
		o->req.iov = iov;
		o->req.iovcnt = 1;
	}
	if (op == BLK_WRITE)
		for (uint64_t s = 0; s < sectors; s++)
			model_fill(o->id, sector + s, (uint8_t *)memory + s * 512);
	model_note(&r->model, &event);
	blk_submit(r->queue, &o->req);
}

static void outcomes_wait(struct run *r, struct outcome *o, unsigned count)
{
	for (unsigned i = 0; i < count;) {
		if (o[i].done) {
			i++;
			continue;
		}
		if (blk_queue_poll(r->queue, 1, 10000) <= 0)
			complain(r, "a request does not come back", 0, "");
	}
	for (unsigned i = 0; i < count; i++) {
		if (o[i].result && o[i].result != r->fault->error &&
		    !(o[i].result == -EROFS && r->fault->op == FAULT_SYNC && o[i].req.op != BLK_READ))
			complain(r, "a request fails with an error of its own", o[i].result, "");
		if (o[i].req.op == BLK_FLUSH && o[i].result == 0 && r->sync_failed)
			complain(r, "a flush succeeds after a sync has failed", 0, "");
		if (o[i].req.op == BLK_FLUSH && o[i].result && r->fault->op == FAULT_SYNC)
			r->sync_failed = true;
	}
}

/* Three requests at a time, in a third of the disk each. */
static void work(struct run *r)
{
	uint64_t sectors = r->disk.size / 512, third = sectors / 3, block = r->fault->disk.block_size / 512;
	uint8_t *memory = malloc(r->disk.size);
	struct outcome o[3];
	struct iovec iov[3];

	for (unsigned n = 0; n < REQUESTS / 3; n++) {
		for (unsigned i = 0; i < 3; i++) {
			uint64_t length = 1 + rng_below(&r->rng, rng_percent(&r->rng, 70) ? 6 : third / 2);
			uint64_t start = i * third + rng_below(&r->rng, third - length + 1);
			unsigned dice = (unsigned)rng_below(&r->rng, 100);
			uint8_t op = dice < 55 ? BLK_WRITE : dice < 70 ? BLK_READ : dice < 80 ? BLK_WRITE_ZEROES : BLK_DISCARD;

			if (op == BLK_DISCARD) {
				start = round_up(i * third, block);
				length = block * (1 + rng_below(&r->rng, (i + 1) * third / block - start / block));
			}
			if (i == 0 && n % 4 == 3)
				op = BLK_FLUSH;
			request_start(r, &o[i], op, start, length, memory + i * third * 512, &iov[i]);
		}
		outcomes_wait(r, o, 3);
	}
	free(memory);
}

static void look(struct run *r, const char *when)
{
	struct err err = {""};
	int rc = blk_pread(r->queue, r->content, r->disk.size, 0);

	if (rc)
		complain(r, when, rc, "reading");
	rc = model_check_live(&r->model, r->content, &err);
	if (rc)
		complain(r, when, rc, err.text);
}

static int one_request(struct run *r, uint8_t op, uint64_t sector)
{
	uint8_t memory[512];
	struct outcome o;
	struct iovec iov;

	request_start(r, &o, op, sector, 1, memory, &iov);
	outcomes_wait(r, &o, 1);
	return o.result;
}

/* The fault is gone. */
static void work_goes_on(struct run *r)
{
	uint64_t sectors = r->disk.size / 512, step = r->fault->disk.block_size / 512;
	int rc = one_request(r, BLK_FLUSH, 0);

	look(r, "after the fault");
	if (r->fault->op == FAULT_SYNC && (rc || r->sync_failed)) {
		/* The sync ahead of new slots counts too, though no flush has said so. */
		r->sync_failed = true;
		if (rc == 0)
			complain(r, "flush after a failed sync", rc, "");
		rc = one_request(r, BLK_WRITE, 1);
		if (rc != -EROFS)
			complain(r, "write after a failed sync", rc, "");
		return;
	}
	if (rc)
		complain(r, "flush after the fault", rc, "");
	for (uint64_t s = 0; s < sectors; s += step) {
		rc = one_request(r, BLK_WRITE, s);
		if (rc)
			complain(r, "write after the fault", rc, "");
	}
	rc = one_request(r, BLK_FLUSH, 0);
	if (rc)
		complain(r, "second flush after the fault", rc, "");
	look(r, "after writes after the fault");
}

static void close_and_look_again(struct run *r)
{
	struct scribble scribble = {.seed = 1, .requests = 30, .threads = 1, .depth = 4, .max_length = 8192};
	struct model_event closed = {.kind = MODEL_CLOSED};
	struct err err = {""};
	unsigned failed;

	blk_queue_free(r->queue);
	closed.result = blk_close(r->blk, &err);
	failed = fault_plan_disarm(&r->plan);
	model_note(&r->model, &closed);
	if (closed.result && !strstr(err.text, "/fake/layer-0.vhd: "))
		complain(r, "closing says nothing of the file", closed.result, err.text);
	if (closed.result == 0 && r->sync_failed)
		complain(r, "closing succeeds after a failed sync", 0, "");
	if (closed.result && !failed)
		complain(r, "closing fails without a reason", closed.result, err.text);

	int rc = run_open(r, true, false, &err);

	if (rc)
		complain(r, "opening again", rc, err.text);
	rc = blk_queue_new(r->blk, NULL, &r->queue, &err);
	if (rc == 0)
		rc = blk_pread(r->queue, r->content, r->disk.size, 0);
	blk_queue_free(r->queue);
	if (rc == 0)
		rc = model_check(&r->model, r->content, &err);
	if (rc == 0)
		rc = scribble_run(r->blk, r->content, &scribble, &err);
	if (rc == 0)
		rc = scribble_compare(r->blk, r->content, &err);
	if (rc == 0)
		rc = blk_close(r->blk, &err);
	if (rc)
		complain(r, "opened again", rc, err.text);
}

/* Returns how many operations failed; `ret_seen`: how many there were of each kind. */
static unsigned fault_run(const struct fault_case *fault, unsigned *ret_seen)
{
	const struct ring_inline_config config = {.seed = fault->first + 1, .shuffle = true, .max_delay = 2};
	struct run r = {.fault = fault, .rng = rng_fork(17, fault->disk.type)};
	struct err err = {""};
	unsigned failed = 0;
	int rc;

	disk_make(&fault->disk, &r.disk);
	ring_inline_configure(&config);
	fault_plan_init(&r.plan);
	if (fault->count)
		fault_plan_arm(&r.plan, fault->op, fault->first, fault->count, fault->error, fault->partial);
	r.first = malloc(r.disk.size);
	r.content = malloc(r.disk.size);
	memcpy(r.first, r.disk.content, r.disk.size);
	model_init(&r.model, r.first, r.disk.size);
	rc = run_open(&r, true, true, &err);
	if (rc) {
		if (rc != fault->error || !strstr(err.text, "/fake/layer-"))
			complain(&r, "opening does not say what is wrong", rc, err.text);
		failed = fault_plan_disarm(&r.plan);
	} else {
		assert_int_equal(blk_queue_new(r.blk, NULL, &r.queue, &err), 0);
		work(&r);
		if (!fault->armed_at_close) {
			failed = fault_plan_disarm(&r.plan);
			r.plan.failed = failed;
			work_goes_on(&r);
		}
		close_and_look_again(&r);
		failed = r.plan.failed;
	}
	if (ret_seen)
		memcpy(ret_seen, r.plan.seen, sizeof(r.plan.seen));
	fault_plan_done(&r.plan);
	model_done(&r.model);
	disk_done(&r.disk);
	free(r.first);
	free(r.content);
	ring_inline_configure(NULL);
	return failed;
}

static const struct disk_spec disks[] = {
	{.type = DISK_FIXED, .size = 96 << 10, .block_size = 8192, .seed = 1},
	{.type = DISK_DYNAMIC, .size = 256 << 10, .block_size = 8192, .blocks = 6, .seed = 2},
	{.type = DISK_DYNAMIC, .size = 256 << 10, .block_size = 16384, .blocks = 12, .partial = true, .stale = true,
	 .seed = 3},
	{.type = DISK_DIFFERENCING, .size = 256 << 10, .block_size = 8192, .layers = 3, .blocks = 8, .partial = true,
	 .seed = 4},
};

static void fail_each(enum fault_op op, int error, bool partial)
{
	unsigned failed = 0;

	for (unsigned d = 0; d < sizeof(disks) / sizeof(*disks); d++) {
		struct fault_case fault = {.disk = disks[d], .op = op, .error = error, .partial = partial};
		unsigned seen[FAULT_OPS], step;

		assert_int_equal(fault_run(&fault, seen), 0);
		step = seen[op] / RUNS_EACH + 1;
		for (fault.first = 0; fault.first < seen[op]; fault.first += step) {
			fault.count = 1;
			fault.armed_at_close = false;
			failed += fault_run(&fault, NULL) > 0;
			fault.count = UINT_MAX;
			failed += fault_run(&fault, NULL) > 0;
			fault.armed_at_close = true;
			failed += fault_run(&fault, NULL) > 0;
			fault.count = 1;
			failed += fault_run(&fault, NULL) > 0;
		}
	}
	assert_true(failed >= 4); /* cuts are few: one for each disk that can grow, at its close */
}

static void each_read_fails(void **state)
{
	(void)state;
	fail_each(FAULT_READ, -EIO, false);
}

static void each_write_fails(void **state)
{
	(void)state;
	fail_each(FAULT_WRITE, -EIO, false);
}

static void each_write_fails_half_done_for_lack_of_space(void **state)
{
	(void)state;
	fail_each(FAULT_WRITE, -ENOSPC, true);
}

static void each_sync_fails(void **state)
{
	(void)state;
	fail_each(FAULT_SYNC, -EIO, false);
}

static void each_allocation_fails(void **state)
{
	(void)state;
	fail_each(FAULT_ALLOCATE, -ENOSPC, false);
}

static void each_punch_fails(void **state)
{
	(void)state;
	fail_each(FAULT_PUNCH, -EIO, false);
}

static void each_truncation_fails(void **state)
{
	(void)state;
	fail_each(FAULT_TRUNCATE, -EIO, false);
}

static void each_sync_punch_and_truncation_runs_out_of_space(void **state)
{
	(void)state;
	fail_each(FAULT_SYNC, -ENOSPC, false);
	fail_each(FAULT_PUNCH, -ENOSPC, false);
	fail_each(FAULT_TRUNCATE, -ENOSPC, false);
}

static void without_punches_nothing_fails(void **state)
{
	struct fault_case fault = {.op = FAULT_PUNCH, .count = UINT_MAX, .error = -EOPNOTSUPP, .armed_at_close = true};

	(void)state;
	for (unsigned d = 0; d < sizeof(disks) / sizeof(*disks); d++) {
		fault.disk = disks[d];
		assert_true(fault_run(&fault, NULL) > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_read_fails),
		cmocka_unit_test(each_write_fails),
		cmocka_unit_test(each_write_fails_half_done_for_lack_of_space),
		cmocka_unit_test(each_sync_fails),
		cmocka_unit_test(each_allocation_fails),
		cmocka_unit_test(each_punch_fails),
		cmocka_unit_test(each_truncation_fails),
		cmocka_unit_test(each_sync_punch_and_truncation_runs_out_of_space),
		cmocka_unit_test(without_punches_nothing_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
