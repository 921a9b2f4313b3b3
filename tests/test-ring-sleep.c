/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sleeping on a ring's descriptor, as event loops do, instead of in ring_poll: common/ring.c, common/ring-pool.c. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "common/ring.h"

#define TIMEOUT_MS 20000

struct posted {
	struct ring_io io;
	struct ring *ring;
	bool done;
};

static void posted_done(struct ring_io *io, int result)
{
	assert_int_equal(result, -7);
	((struct posted *)io)->done = true;
}

static void *post_late(void *arg)
{
	struct posted *posted = arg;
	struct timespec pause = {.tv_nsec = 50000000};

	nanosleep(&pause, NULL);
	ring_post(posted->ring, &posted->io, -7);
	return NULL;
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* poll(2) finds the descriptor ready after its timeout too, so the time tells whether it was woken. */
static void sleeper_is_woken(unsigned flags)
{
	struct posted posted = {.io = {.done = posted_done}};
	struct pollfd fd = {.events = POLLIN};
	struct err err;

	assert_int_equal(ring_new(flags, &posted.ring, &err), 0);
	fd.fd = posted.ring->fd;
	for (int round = 0; round < 3; round++) {
		double start = seconds_now();
		pthread_t thread;

		posted.done = false;
		assert_int_equal(pthread_create(&thread, NULL, post_late, &posted), 0);
		while (!posted.done) {
			assert_true(ring_poll(posted.ring, 0, 0) >= 0);
			if (!posted.done)
				(void)poll(&fd, 1, TIMEOUT_MS);
			assert_true(seconds_now() - start < TIMEOUT_MS / 2000.0);
		}
		pthread_join(thread, NULL);
	}
	ring_free(posted.ring);
}

static void a_sleeper_on_the_descriptor_is_woken(void **state)
{
	(void)state;
	sleeper_is_woken(0);
}

static void a_sleeper_on_the_descriptor_of_a_thread_pool_is_woken(void **state)
{
	(void)state;
	sleeper_is_woken(RING_NO_URING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sleeper_on_the_descriptor_is_woken),
		cmocka_unit_test(a_sleeper_on_the_descriptor_of_a_thread_pool_is_woken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
