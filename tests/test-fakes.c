/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fakes that other tests stand on: a fake that forgets too little makes those tests blind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/crash.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/store-memory.h"
#include "tests/lib/store-trace.h"

static void sparse_content_is_what_a_plain_array_would_hold(void **state)
{
	enum { SIZE = 300000 };
	static uint8_t plain[SIZE], back[SIZE];
	struct rng rng = {1};
	struct sparse sparse, clone;

	(void)state;
	sparse_init(&sparse);
	sparse_truncate(&sparse, SIZE);
	for (int i = 0; i < 2000; i++) {
		uint64_t offset = rng_below(&rng, SIZE), length = rng_below(&rng, SIZE - offset) + 1;

		if (rng_percent(&rng, 50))
			length = length % 5000 + 1 > SIZE - offset ? SIZE - offset : length % 5000 + 1;
		switch (rng_below(&rng, 4)) {
		case 0:
			sparse_zero(&sparse, offset, length);
			memset(plain + offset, 0, length);
			break;
		case 1:
			sparse_truncate(&sparse, offset);
			sparse_truncate(&sparse, SIZE);
			memset(plain + offset, 0, SIZE - offset);
			break;
		default:
			memset(back, i | 1, length);
			sparse_write(&sparse, back, length, offset);
			memset(plain + offset, i | 1, length);
		}
		sparse_clone(&sparse, &clone);
		sparse_zero(&sparse, 0, SIZE);
		sparse_done(&sparse);
		sparse = clone;
		sparse_read(&sparse, back, SIZE, 0);
		assert_memory_equal(back, plain, SIZE);
	}
	sparse_write(&sparse, "x", 1, UINT64_C(40) << 30);
	assert_int_equal(sparse.size, (UINT64_C(40) << 30) + 1);
	assert_true(sparse_used_bytes(&sparse) < 1 << 20);
	sparse_done(&sparse);
}

struct counted {
	struct ring_io io;
	unsigned order;
	int result;
};

static unsigned done_count;

static void counted_done(struct ring_io *io, int result)
{
	struct counted *c = (struct counted *)io;

	c->order = ++done_count;
	c->result = result;
}

static void *post_from_elsewhere(void *arg)
{
	void **pair = arg;

	usleep(20000);
	ring_post(pair[0], pair[1], 7);
	return NULL;
}

static void the_inline_ring_reads_back_what_it_wrote_and_says_where_the_file_ends(void **state)
{
	struct memory_file *file = memory_file_new(NULL);
	struct store *store = store_memory_open(file, STORE_WRITE);
	char out[1000], in[1000];
	struct iovec parts[2] = {{out, 300}, {out + 300, 700}}, whole = {in, 1000};
	struct counted c = {.io = {.op = RING_WRITE, .iov = parts, .iovcnt = 2, .offset = 5, .length = 1000}};
	struct ring *ring;

	(void)state;
	ring_inline_configure(NULL);
	memset(out, 'a', 300);
	memset(out + 300, 'b', 700);
	assert_int_equal(store->ops->ring_new(store, &ring, NULL), 0);
	c.io.slot = ring_attach(ring, &store->file);
	c.io.done = counted_done;
	ring_submit(ring, &c.io);
	assert_int_equal(ring_poll(ring, 1, -1), 1);
	assert_int_equal(c.result, 0);
	c.io.op = RING_READ;
	c.io.iov = &whole;
	c.io.iovcnt = 1;
	ring_submit(ring, &c.io);
	assert_int_equal(ring_poll(ring, 1, -1), 1);
	assert_int_equal(c.result, 0);
	assert_memory_equal(in, out, 1000);
	c.io.offset = 6;
	ring_submit(ring, &c.io);
	assert_int_equal(ring_poll(ring, 1, -1), 1);
	assert_int_equal(c.result, -ENODATA);
	assert_int_equal(ring_poll(ring, 1, 10), 0);
	ring_detach(ring, c.io.slot);
	ring_free(ring);
	store_close(store);
	memory_file_free(file);
}

static void the_inline_ring_is_woken_by_a_post_from_another_thread(void **state)
{
	struct counted c = {.io = {.done = counted_done}};
	struct ring *ring;
	void *pair[2];
	pthread_t thread;

	(void)state;
	ring_inline_configure(NULL);
	assert_int_equal(ring_inline_new(&ring, NULL), 0);
	pair[0] = ring;
	pair[1] = &c.io;
	assert_int_equal(pthread_create(&thread, NULL, post_from_elsewhere, pair), 0);
	assert_int_equal(ring_poll(ring, 1, -1), 1);
	assert_int_equal(c.result, 7);
	pthread_join(thread, NULL);
	ring_free(ring);
}

static void the_inline_ring_completes_in_another_order_when_told_to(void **state)
{
	const struct ring_inline_config config = {.seed = 3, .shuffle = true, .max_delay = 3};
	struct memory_file *file = memory_file_new(NULL);
	struct store *store = store_memory_open(file, STORE_WRITE);
	struct counted c[50];
	char x = 'x';
	struct iovec iov = {&x, 1};
	struct ring *ring;
	unsigned later = 0;

	(void)state;
	ring_inline_configure(&config);
	assert_int_equal(store->ops->ring_new(store, &ring, NULL), 0);
	memset(c, 0, sizeof(c));
	done_count = 0;
	for (unsigned i = 0; i < 50; i++) {
		c[i].io = (struct ring_io){.op = RING_WRITE, .iov = &iov, .iovcnt = 1, .offset = i, .length = 1};
		c[i].io.slot = i ? c[0].io.slot : ring_attach(ring, &store->file);
		c[i].io.done = counted_done;
		ring_submit(ring, &c[i].io);
	}
	assert_in_range(ring_poll(ring, 0, 0), 0, 49);
	while (done_count < 50)
		assert_true(ring_poll(ring, 1, -1) > 0);
	for (unsigned i = 1; i < 50; i++)
		later += c[i].order < c[i - 1].order;
	assert_in_range(later, 10, 40);
	ring_detach(ring, c[0].io.slot);
	ring_free(ring);
	store_close(store);
	memory_file_free(file);
	ring_inline_configure(NULL);
}

/* A file of two sectors of '0', traced. */
struct traced {
	struct trace trace;
	struct memory_file *file;
	struct store *store;
};

static void fill(struct store *store, char letter, size_t length, uint64_t offset)
{
	char *bytes = malloc(length);

	memset(bytes, letter, length);
	assert_int_equal(store->ops->write(store, bytes, length, offset), 0);
	free(bytes);
}

static void traced_init(struct traced *t)
{
	struct sparse before;

	trace_init(&t->trace);
	t->file = memory_file_new(NULL);
	t->store = store_memory_open(t->file, STORE_WRITE);
	fill(t->store, '0', 1024, 0);
	memory_file_content(t->file, &before);
	t->store = store_trace_open_take(t->store, &t->trace, &before);
	sparse_done(&before);
}

static void traced_done(struct traced *t)
{
	store_close(t->store);
	memory_file_free(t->file);
	trace_done(&t->trace);
}

/* Collects what states show: the first byte of each sector, as one string a state. */
struct seen {
	char text[64][40];
	unsigned count;
	size_t only_point; /* SIZE_MAX: all */
};

static int seen_check(void *user, const struct trace *trace, struct crash_state *state, struct err *err)
{
	struct seen *seen = user;
	char text[40] = "";
	uint64_t sectors = state->files[0].size / 512;

	(void)trace;
	(void)err;
	if (seen->only_point != SIZE_MAX && seen->only_point != state->point)
		return 0;
	for (uint64_t i = 0; i < sectors && i < sizeof(text) - 1; i++) {
		uint8_t sector[512];

		sparse_read(&state->files[0], sector, 512, i * 512);
		text[i] = sector[0] ? (char)sector[0] : '.';
		for (unsigned k = 1; k < 512; k++)
			assert_int_equal(sector[k], sector[0]);
	}
	for (unsigned i = 0; i < seen->count; i++)
		if (strcmp(seen->text[i], text) == 0)
			return 0;
	assert_true(seen->count < 64);
	strcpy(seen->text[seen->count++], text);
	return 0;
}

static void seen_run(const struct trace *trace, int dropped, size_t only_point, struct seen *seen)
{
	struct crash_options options = {
		.seed = 11, .states = 10000, .dropped = dropped, .check = seen_check, .user = seen,
	};
	struct crash_state failed;

	memset(seen, 0, sizeof(*seen));
	seen->only_point = only_point;
	assert_int_equal(crash_run(trace, &options, &failed, NULL), 0);
}

static bool has_seen(const struct seen *seen, const char *text)
{
	for (unsigned i = 0; i < seen->count; i++)
		if (strcmp(seen->text[i], text) == 0)
			return true;
	return false;
}

static void an_unsynced_write_may_be_torn_at_any_sector(void **state)
{
	struct traced t;
	struct seen seen;

	(void)state;
	traced_init(&t);
	fill(t.store, 'a', 1024, 0);
	fill(t.store, 'b', 1024, 0);
	seen_run(&t.trace, CRASH_KEEP_ALL, SIZE_MAX, &seen);
	assert_int_equal(seen.count, 9);
	assert_true(has_seen(&seen, "00") && has_seen(&seen, "ab") && has_seen(&seen, "b0"));
	traced_done(&t);
}

static void what_a_completed_sync_covers_is_never_lost_unless_it_is_dropped(void **state)
{
	struct traced t;
	struct seen seen;

	(void)state;
	traced_init(&t);
	fill(t.store, 'a', 1024, 0);
	assert_int_equal(t.store->ops->sync(t.store, STORE_BARRIER_DATA), 0);
	fill(t.store, 'b', 512, 0);
	seen_run(&t.trace, CRASH_KEEP_ALL, t.trace.count, &seen);
	assert_int_equal(seen.count, 2);
	assert_true(has_seen(&seen, "aa") && has_seen(&seen, "ba"));
	seen_run(&t.trace, STORE_BARRIER_METADATA, t.trace.count, &seen);
	assert_int_equal(seen.count, 2);
	seen_run(&t.trace, STORE_BARRIER_DATA, t.trace.count, &seen);
	assert_int_equal(seen.count, 6);
	traced_done(&t);
}

static void a_sync_covers_nothing_that_came_after_it_began(void **state)
{
	struct trace_event *e;
	struct traced t;
	struct seen seen;

	(void)state;
	traced_init(&t);
	fill(t.store, 'a', 512, 0);
	assert_int_equal(t.store->ops->sync(t.store, STORE_BARRIER_DATA), 0);
	fill(t.store, 'b', 512, 512);
	/* The second write comes in between the beginning and the end of the sync. */
	e = t.trace.events;
	assert_int_equal(t.trace.count, 4);
	struct trace_event end = e[2];
	e[2] = e[3];
	e[3] = end;
	seen_run(&t.trace, CRASH_KEEP_ALL, 4, &seen);
	assert_int_equal(seen.count, 2);
	assert_true(has_seen(&seen, "a0") && has_seen(&seen, "ab"));
	seen_run(&t.trace, CRASH_KEEP_ALL, 3, &seen);
	assert_int_equal(seen.count, 4);
	traced_done(&t);
}

static void sizes_and_punches_are_lost_independently_of_data(void **state)
{
	struct traced t;
	struct seen seen;

	(void)state;
	traced_init(&t);
	assert_int_equal(t.store->ops->allocate(t.store, 1024, 512), 0);
	fill(t.store, 'a', 512, 1024);
	seen_run(&t.trace, CRASH_KEEP_ALL, SIZE_MAX, &seen);
	assert_int_equal(seen.count, 3);
	assert_true(has_seen(&seen, "00") && has_seen(&seen, "00.") && has_seen(&seen, "00a"));
	assert_int_equal(t.store->ops->sync(t.store, STORE_BARRIER_SLOTS), 0);
	assert_int_equal(t.store->ops->punch(t.store, 0, 512), 0);
	assert_int_equal(t.store->ops->truncate(t.store, 1024), 0);
	seen_run(&t.trace, CRASH_KEEP_ALL, t.trace.count, &seen);
	assert_int_equal(seen.count, 4);
	assert_true(has_seen(&seen, "00a") && has_seen(&seen, ".0a") && has_seen(&seen, "00") && has_seen(&seen, ".0"));
	/* What was cut off is gone for good, once any later size is there. */
	assert_int_equal(t.store->ops->sync(t.store, STORE_BARRIER_SLOTS), 0);
	assert_int_equal(t.store->ops->allocate(t.store, 1024, 512), 0);
	seen_run(&t.trace, CRASH_KEEP_ALL, t.trace.count, &seen);
	assert_int_equal(seen.count, 2);
	assert_true(has_seen(&seen, ".0") && has_seen(&seen, ".0."));
	traced_done(&t);
}

static int refuse_b(void *user, const struct trace *trace, struct crash_state *state, struct err *err)
{
	uint8_t sector[512];

	(void)user;
	(void)trace;
	sparse_read(&state->files[0], sector, 512, 512);
	return sector[0] == 'b' ? err_set(err, 1, "there is a b") : 0;
}

static void a_state_that_failed_is_made_again_from_its_file(void **state)
{
	struct crash_options options = {.seed = 5, .states = 200, .dropped = CRASH_KEEP_ALL, .check = refuse_b};
	char dir[] = "/tmp/vhdkit-test-XXXXXX", command[64];
	struct crash_state failed, again;
	uint8_t one[1024], two[1024];
	struct trace trace;
	struct traced t;
	struct err err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	traced_init(&t);
	fill(t.store, 'a', 1024, 0);
	fill(t.store, 'b', 1024, 0);
	trace_mark(&t.trace, "hello", 5);
	assert_int_equal(crash_run(&t.trace, &options, &failed, &err), 1);
	assert_string_equal(err.text, "there is a b");
	assert_int_equal(crash_state_save(&t.trace, &failed, dir), 0);
	assert_int_equal(crash_state_load(dir, &trace, &again), 0);
	assert_int_equal(trace.count, t.trace.count);
	assert_memory_equal(trace.events[2].bytes, "hello", 5);
	crash_state_make(&trace, &again);
	sparse_read(&failed.files[0], one, 1024, 0);
	sparse_read(&again.files[0], two, 1024, 0);
	assert_memory_equal(one, two, 1024);
	assert_int_equal(two[512], 'b');
	crash_state_done(&failed);
	crash_state_done(&again);
	trace_done(&trace);
	traced_done(&t);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sparse_content_is_what_a_plain_array_would_hold),
		cmocka_unit_test(the_inline_ring_reads_back_what_it_wrote_and_says_where_the_file_ends),
		cmocka_unit_test(the_inline_ring_is_woken_by_a_post_from_another_thread),
		cmocka_unit_test(the_inline_ring_completes_in_another_order_when_told_to),
		cmocka_unit_test(an_unsynced_write_may_be_torn_at_any_sector),
		cmocka_unit_test(what_a_completed_sync_covers_is_never_lost_unless_it_is_dropped),
		cmocka_unit_test(a_sync_covers_nothing_that_came_after_it_began),
		cmocka_unit_test(sizes_and_punches_are_lost_independently_of_data),
		cmocka_unit_test(a_state_that_failed_is_made_again_from_its_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
