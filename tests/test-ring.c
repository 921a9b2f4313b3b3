/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Both rings, io_uring and the thread pool, on real files: each case runs with each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/ring.h"
#include "tests/lib/random.h"

struct fixture {
	struct ring *ring;
	struct ring_file file;
	int slot;
};

static unsigned done_count;

struct waited {
	struct ring_io io;
	unsigned done;
	int result;
};

static void waited_done(struct ring_io *io, int result)
{
	struct waited *w = (struct waited *)io;

	w->done++;
	w->result = result;
	done_count++;
}

static int setup(void **state, unsigned flags)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char path[] = "/tmp/vhdkit-test-XXXXXX";

	f->file.fd = mkstemp(path);
	unlink(path);
	if (f->file.fd < 0 || ring_new(flags, &f->ring, NULL) < 0)
		return -1;
	f->slot = ring_attach(f->ring, &f->file);
	*state = f;
	return f->slot < 0 ? -1 : 0;
}

static int setup_kernel(void **state)
{
	return setup(state, 0);
}

static int setup_pool(void **state)
{
	return setup(state, RING_NO_URING);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ring_detach(f->ring, f->slot);
	ring_free(f->ring);
	close(f->file.fd);
	free(f);
	return 0;
}

static void waited_init(struct fixture *f, struct waited *w, enum ring_op op, uint64_t offset, uint64_t length,
                        const struct iovec *iov, int count)
{
	*w = (struct waited){
		.io = {.op = (uint8_t)op, .slot = f->slot, .offset = offset, .length = length, .iov = iov, .iovcnt = count,
		       .done = waited_done},
	};
}

static int run_one(struct fixture *f, enum ring_op op, void *buffer, uint64_t length, uint64_t offset)
{
	struct iovec iov = {buffer, length};
	struct waited w;

	waited_init(f, &w, op, offset, length, &iov, buffer ? 1 : 0);
	ring_submit(f->ring, &w.io);
	assert_int_equal(ring_poll(f->ring, 1, 20000), 1);
	assert_int_equal(w.done, 1);
	return w.result;
}

static void what_is_written_is_read_back_through_other_pieces(void **state)
{
	struct fixture *f = *state;
	static uint8_t out[70000], in[70000];
	struct iovec pieces[5];
	struct waited w;
	struct rng rng = {3};

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)rng_next(&rng);
	assert_int_equal(run_one(f, RING_WRITE, out, sizeof(out), 12345), 0);
	for (int i = 0; i < 5; i++)
		pieces[i] = (struct iovec){in + i * 14000, 14000};
	waited_init(f, &w, RING_READ, 12345, sizeof(in), pieces, 5);
	ring_submit(f->ring, &w.io);
	assert_int_equal(ring_poll(f->ring, 1, 20000), 1);
	assert_int_equal(w.result, 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(run_one(f, RING_SYNC, NULL, 0, 0), 0);
}

static void a_read_beyond_the_end_of_the_file_says_so(void **state)
{
	struct fixture *f = *state;
	uint8_t buffer[4096];

	memset(buffer, 'x', sizeof(buffer));
	assert_int_equal(run_one(f, RING_WRITE, buffer, 1000, 0), 0);
	assert_int_equal(run_one(f, RING_READ, buffer, 1000, 0), 0);
	assert_int_equal(run_one(f, RING_READ, buffer, 1001, 0), -ENODATA);
	assert_int_equal(run_one(f, RING_READ, buffer, 1, 1000), -ENODATA);
	assert_int_equal(run_one(f, RING_READ, buffer, 4096, 5000000), -ENODATA);
}

static void an_error_of_the_file_is_the_requests_result(void **state)
{
	struct fixture *f = *state;
	struct ring_file read_only;
	uint8_t buffer[512] = {0};
	struct iovec iov = {buffer, 512};
	char path[40];
	struct waited w;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->file.fd);
	read_only = (struct ring_file){.fd = open(path, O_RDONLY)};
	assert_true(read_only.fd >= 0);
	waited_init(f, &w, RING_WRITE, 0, 512, &iov, 1);
	w.io.slot = ring_attach(f->ring, &read_only);
	assert_true(w.io.slot >= 0 && w.io.slot != f->slot);
	ring_submit(f->ring, &w.io);
	assert_int_equal(ring_poll(f->ring, 1, 20000), 1);
	assert_int_equal(w.result, -EBADF);
	ring_detach(f->ring, w.io.slot);
	close(read_only.fd);
}

static void a_punched_range_reads_as_zeros_and_the_size_stays(void **state)
{
	struct fixture *f = *state;
	uint8_t buffer[8192], zeros[4096] = {0};
	struct stat st;
	int rc;

	memset(buffer, 'x', sizeof(buffer));
	assert_int_equal(run_one(f, RING_WRITE, buffer, 8192, 0), 0);
	rc = run_one(f, RING_PUNCH, NULL, 100000, 4096);
	if (rc == -EOPNOTSUPP) {
		print_message("the file system of /tmp cannot punch holes\n");
		skip();
	}
	assert_int_equal(rc, 0);
	assert_int_equal(run_one(f, RING_READ, buffer, 8192, 0), 0);
	assert_int_equal(buffer[4095], 'x');
	assert_memory_equal(buffer + 4096, zeros, 4096);
	assert_int_equal(fstat(f->file.fd, &st), 0);
	assert_int_equal(st.st_size, 8192);
}

/* Four times what the kernel gets at once. */
static void many_requests_in_flight_all_come_back_once(void **state)
{
	enum { COUNT = 4 * RING_DEPTH };
	struct fixture *f = *state;
	struct waited *w = calloc(COUNT, sizeof(*w));
	struct iovec *iov = calloc(COUNT, sizeof(*iov));
	uint32_t *numbers = calloc(COUNT, 512);

	done_count = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		numbers[i * 128] = i;
		iov[i] = (struct iovec){&numbers[i * 128], 512};
		waited_init(f, &w[i], RING_WRITE, i * 512ull, 512, &iov[i], 1);
		ring_submit(f->ring, &w[i].io);
	}
	while (done_count < COUNT)
		assert_true(ring_poll(f->ring, 1, 20000) > 0);
	memset(numbers, 0xff, COUNT * 512);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(w[i].done, 1);
		assert_int_equal(w[i].result, 0);
		waited_init(f, &w[i], RING_READ, i * 512ull, 512, &iov[i], 1);
		ring_submit(f->ring, &w[i].io);
	}
	assert_int_equal(ring_poll(f->ring, COUNT, 60000), COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(w[i].result, 0);
		assert_int_equal(numbers[i * 128], i);
	}
	free(w);
	free(iov);
	free(numbers);
}

struct chain_io {
	struct waited waited;
	struct fixture *f;
	struct iovec iov;
	uint8_t buffer[512];
	unsigned left;
};

static void chain_done(struct ring_io *io, int result)
{
	struct chain_io *c = (struct chain_io *)io;

	assert_int_equal(result, 0);
	done_count++;
	if (c->left-- > 0) {
		io->offset += 512;
		ring_submit(c->f->ring, io);
	}
}

static void a_completion_may_submit_the_next_request(void **state)
{
	struct chain_io c = {.f = *state, .left = 99};

	c.iov = (struct iovec){c.buffer, 512};
	waited_init(c.f, &c.waited, RING_WRITE, 0, 512, &c.iov, 1);
	c.waited.io.done = chain_done;
	done_count = 0;
	ring_submit(c.f->ring, &c.waited.io);
	assert_true(ring_poll(c.f->ring, 100, 20000) >= 100);
	assert_int_equal(done_count, 100);
}

static void misaligned_memory_is_bounced_for_a_file_that_asks(void **state)
{
	struct fixture *f = *state;
	uint8_t *memory = malloc(3 * 4096), *odd = memory + 1;
	struct iovec pieces[2] = {{odd, 100}, {odd + 200, 924}};
	struct waited w;

	f->file.memory_align = 512;
	memset(memory, 'a', 3 * 4096);
	memset(odd + 200, 'b', 924);
	waited_init(f, &w, RING_WRITE, 0, 1024, pieces, 2);
	ring_submit(f->ring, &w.io);
	assert_int_equal(ring_poll(f->ring, 1, 20000), 1);
	assert_int_equal(w.result, 0);
	memset(memory, 0, 3 * 4096);
	waited_init(f, &w, RING_READ, 0, 1024, pieces, 2);
	ring_submit(f->ring, &w.io);
	assert_int_equal(ring_poll(f->ring, 1, 20000), 1);
	assert_int_equal(w.result, 0);
	assert_true(odd[0] == 'a' && odd[99] == 'a' && odd[100] == 0 && odd[199] == 0);
	assert_true(odd[200] == 'b' && odd[200 + 923] == 'b' && odd[200 + 924] == 0);
	free(memory);
}

static void a_poll_gives_up_when_its_time_is_over(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(ring_poll(f->ring, 0, 0), 0);
	assert_int_equal(ring_poll(f->ring, 1, 0), 0);
	assert_int_equal(ring_poll(f->ring, 1, 20), 0);
}

#define POSTERS 4u
#define POSTS 300u

struct poster {
	struct ring *ring;
	pthread_t thread;
	struct waited waited[POSTS];
};

static void *poster_main(void *arg)
{
	struct poster *p = arg;

	for (unsigned i = 0; i < POSTS; i++) {
		p->waited[i].io.done = waited_done;
		ring_post(p->ring, &p->waited[i].io, (int)i);
		if (i % 50 == 0)
			usleep(1000);
	}
	return NULL;
}

static void posts_of_many_threads_arrive_among_io(void **state)
{
	struct fixture *f = *state;
	struct poster *posters = calloc(POSTERS, sizeof(*posters));
	uint8_t buffer[512] = {0};
	struct iovec iov = {buffer, 512};
	struct waited w;
	unsigned writes = 0;

	done_count = 0;
	for (unsigned i = 0; i < POSTERS; i++) {
		posters[i].ring = f->ring;
		assert_int_equal(pthread_create(&posters[i].thread, NULL, poster_main, &posters[i]), 0);
	}
	while (done_count < POSTERS * POSTS + writes) {
		if (writes < 200) {
			waited_init(f, &w, RING_WRITE, writes * 512ull, 512, &iov, 1);
			ring_submit(f->ring, &w.io);
			writes++;
			while (!w.done)
				assert_true(ring_poll(f->ring, 1, 20000) > 0);
		} else {
			assert_true(ring_poll(f->ring, 1, 20000) > 0);
		}
	}
	for (unsigned i = 0; i < POSTERS; i++) {
		pthread_join(posters[i].thread, NULL);
		for (unsigned k = 0; k < POSTS; k++) {
			assert_int_equal(posters[i].waited[k].done, 1);
			assert_int_equal(posters[i].waited[k].result, k);
		}
	}
	assert_int_equal(ring_poll(f->ring, 0, 0), 0);
	free(posters);
}

static void the_environment_forces_the_pool(void **state)
{
	char before[64], after[64];
	struct ring *ring;
	ssize_t n;

	(void)state;
	assert_int_equal(setenv("VHDKIT_IO", "threads", 1), 0);
	assert_int_equal(ring_new(0, &ring, NULL), 0);
	assert_int_equal(unsetenv("VHDKIT_IO"), 0);
	snprintf(before, sizeof(before), "/proc/self/fd/%d", ring->fd);
	n = readlink(before, after, sizeof(after) - 1);
	assert_true(n > 0);
	after[n] = '\0';
	assert_string_equal(after, "anon_inode:[eventfd]");
	ring_free(ring);
}

static void more_files_than_slots_are_refused_and_slots_are_used_again(void **state)
{
	struct fixture *f = *state;
	int slots[1000], n = 0;

	while (n < 1000 && (slots[n] = ring_attach(f->ring, &f->file)) >= 0)
		n++;
	assert_in_range(n, 256, 999);
	ring_detach(f->ring, slots[100]);
	assert_int_equal(ring_attach(f->ring, &f->file), slots[100]);
	for (int i = 0; i < n; i++)
		ring_detach(f->ring, slots[i]);
}

#define BOTH(test) \
	{#test ", by io_uring where it is allowed", test, setup_kernel, teardown, NULL}, \
	{#test ", by threads", test, setup_pool, teardown, NULL}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(what_is_written_is_read_back_through_other_pieces),
		BOTH(a_read_beyond_the_end_of_the_file_says_so),
		BOTH(an_error_of_the_file_is_the_requests_result),
		BOTH(a_punched_range_reads_as_zeros_and_the_size_stays),
		BOTH(many_requests_in_flight_all_come_back_once),
		BOTH(a_completion_may_submit_the_next_request),
		BOTH(misaligned_memory_is_bounced_for_a_file_that_asks),
		BOTH(a_poll_gives_up_when_its_time_is_over),
		BOTH(posts_of_many_threads_arrive_among_io),
		BOTH(more_files_than_slots_are_refused_and_slots_are_used_again),
		cmocka_unit_test(the_environment_forces_the_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
