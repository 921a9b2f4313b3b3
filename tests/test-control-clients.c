/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Clients that do not behave, and many of them. */

#include <cmocka.h>

#include "common/local-socket.h"
#include "tests/lib/control.h"
#include "tests/lib/random.h"
#include "vhd/control-wire.h"

static void still_serves(struct fixture *f)
{
	struct control_owner owner;

	owner_find(f, 0, &owner);
	control_owner_close(&owner);
}

static void hostile_clients_are_refused_and_others_served(void **state)
{
	static char noise[3 * CONTROL_REQUEST_MAX];
	static const char *const lines[] = {"\n", "\n\n\n", "merge\n", "hello x\n", "jobs =\n", "pause job=x\n", "rate\n",
	                                    "nonsense\n", "merge file=0:0\n", "merge file=1:1\n", "hello", ""};
	struct fixture *f = *state;
	struct rng rng = {42};

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		close(raw_client(f, lines[i], strlen(lines[i])));
		still_serves(f);
	}
	for (unsigned round = 0; round < 60; round++) {
		size_t length = rng_below(&rng, sizeof(noise));
		int fd;

		for (size_t i = 0; i < length; i++)
			noise[i] = round % 3 == 0 ? (char)rng_below(&rng, 256) : round % 3 == 1 ? 'a' : "ab =%\n"[rng_below(&rng, 6)];
		fd = raw_client(f, "", 0);
		(void)!send(fd, noise, length, MSG_NOSIGNAL | MSG_DONTWAIT);
		still_serves(f);
		close(fd);
	}
	assert_int_equal(f->fake.calls, 0);
}

/* The reply, to its line feed. */
static void reads_line(int fd, char *ret, size_t size)
{
	size_t used = 0;

	while (used < size - 1 && read(fd, ret + used, 1) == 1 && ret[used] != '\n')
		used++;
	ret[used] = '\0';
}

static void a_line_that_never_ends_is_cut_off(void **state)
{
	static char text[2 * CONTROL_REQUEST_MAX];
	struct fixture *f = *state;
	char c;
	int fd;

	memset(text, 'a', sizeof(text));
	fd = raw_client(f, "", 0);
	for (unsigned i = 0; i < 100; i++)
		(void)!send(fd, text, sizeof(text), MSG_NOSIGNAL | MSG_DONTWAIT);
	assert_true(recv(fd, &c, 1, 0) <= 0);
	close(fd);
	still_serves(f);
}

static void lines_come_in_pieces_and_many_at_once(void **state)
{
	struct fixture *f = *state;
	int fd = raw_client(f, "hel", 3);
	char reply[1000];

	usleep(50000);
	assert_int_equal(send(fd, "lo\njobs\nnonsense\n", 17, 0), 17);
	reads_line(fd, reply, sizeof(reply));
	assert_non_null(strstr(reply, "result version=1"));
	reads_line(fd, reply, sizeof(reply));
	assert_string_equal(reply, "result");
	reads_line(fd, reply, sizeof(reply));
	assert_non_null(strstr(reply, "error code=errno-"));
	close(fd);
}

static void a_client_that_reads_nothing_holds_nobody_up(void **state)
{
	struct fixture *f = *state;
	char line[300];
	int mute, asks;
	size_t sent = 0;

	/* One asks without end and reads no reply; one waits for its job in the same way. */
	asks = raw_client(f, "", 0);
	for (unsigned i = 0; i < 200000; i++) {
		ssize_t n = send(asks, "hello\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	assert_true(sent < 6 * 200000);
	f->fake.endless = true;
	merge_line(f, "", line, sizeof(line));
	mute = raw_client(f, line, strlen(line));
	while (!f->fake.calls)
		usleep(1000);
	for (unsigned i = 0; i < 20; i++) {
		still_serves(f);
		usleep(50000);
	}
	assert_int_equal(steer(f, CONTROL_CANCEL, 0, 0), 0);
	wait_until_ended(f, -ECANCELED);
	/* And all that it was told is there when it reads at last. */
	do
		reads_line(mute, line, sizeof(line));
	while (strncmp(line, "error", 5) != 0);
	assert_non_null(strstr(line, "code=errno-125"));
	close(mute);
	close(asks);
}

#define CROWD 24

static void *crowd_run(void *user)
{
	struct fixture *f = user;
	struct control_owner owners[CONTROL_OWNERS_MAX];

	for (unsigned i = 0; i < 20; i++) {
		if (control_find(file_of(f, i % LAYERS), f->folder, owners) != 1)
			return f;
		control_owner_close(&owners[0]);
	}
	return NULL;
}

static void a_crowd_is_served(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[CROWD];
	void *failed;

	for (unsigned i = 0; i < CROWD; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_run, f), 0);
	for (unsigned i = 0; i < CROWD; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
}

static void more_clients_than_it_takes_are_turned_away_and_do_no_harm(void **state)
{
	struct fixture *f = *state;
	int fds[100];

	for (unsigned i = 0; i < 100; i++) {
		char name[40];
		pid_t pid;

		snprintf(name, sizeof(name), "%d-0.disk", (int)getpid());
		fds[i] = local_socket_connect(f->folder, name, geteuid(), &pid);
	}
	for (unsigned i = 0; i < 100; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	usleep(200000);
	still_serves(f);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, control_fixture_make, control_fixture_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(hostile_clients_are_refused_and_others_served),
	        CASE(a_line_that_never_ends_is_cut_off),
	        CASE(lines_come_in_pieces_and_many_at_once),
	        CASE(a_client_that_reads_nothing_holds_nobody_up),
	        CASE(a_crowd_is_served),
	        CASE(more_clients_than_it_takes_are_turned_away_and_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
