/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/lock.h"
#include "vhd/vhd.h"

static char *dir, path[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("lock");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static int open_file(void)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	assert_true(fd >= 0);
	return fd;
}

static void readers_share_and_a_writer_is_alone(void **state)
{
	int a = open_file(), b = open_file(), c = open_file();
	struct err err;

	assert_int_equal(lock_take(a, path, false, &err), 0);
	assert_int_equal(lock_take(b, path, false, &err), 0);
	assert_int_equal(lock_take(c, path, true, &err), VHD_E_IN_USE);
	assert_non_null(strstr(err.text, "this process"));
	close(a);
	assert_int_equal(lock_take(c, path, true, &err), VHD_E_IN_USE);
	close(b);
	assert_int_equal(lock_take(c, path, true, &err), 0);
	a = open_file();
	assert_int_equal(lock_take(a, path, false, &err), VHD_E_IN_USE);
	assert_int_equal(lock_take(a, path, true, &err), VHD_E_IN_USE);
	close(c);
	assert_int_equal(lock_take(a, path, true, &err), 0);
	close(a);
}

static void a_reader_becomes_the_writer_without_a_moment_between(void **state)
{
	int reader = open_file(), writer = open_file(), other = open_file();
	struct err err;

	assert_int_equal(lock_take(reader, path, false, &err), 0);
	assert_int_equal(lock_raise(writer, reader, path, &err), 0);
	assert_int_equal(lock_take(other, path, false, &err), VHD_E_IN_USE);
	lock_lower(writer);
	assert_int_equal(lock_take(other, path, false, &err), 0);
	close(writer);
	close(other);
	close(reader);
}

static void a_reader_beside_others_stays_a_reader(void **state)
{
	int reader = open_file(), writer = open_file(), other = open_file(), third = open_file();
	struct err err;

	assert_int_equal(lock_take(reader, path, false, &err), 0);
	assert_int_equal(lock_take(other, path, false, &err), 0);
	assert_int_equal(lock_raise(writer, reader, path, &err), VHD_E_IN_USE);
	assert_non_null(strstr(err.text, "in use"));
	close(writer);
	close(other);
	assert_int_equal(lock_take(third, path, true, &err), VHD_E_IN_USE); /* by the first reader */
	close(reader);
	assert_int_equal(lock_take(third, path, true, &err), 0);
	close(third);
}

static void a_refused_lock_leaves_nothing_behind(void **state)
{
	struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int a = open_file(), b = open_file();

	assert_int_equal(lock_take(a, path, false, NULL), 0);
	assert_int_equal(lock_take(b, path, true, NULL), VHD_E_IN_USE);
	close(a);
	a = open_file();
	assert_int_equal(fcntl(a, F_OFD_GETLK, &all), 0);
	assert_int_equal(all.l_type, F_UNLCK);
	close(a);
	close(b);
}

/* The bytes that QEMU's reader and writer were seen to hold. */
static void the_bytes_locked_are_those_of_qemu(void **state)
{
	static const struct {
		bool write;
		int held[6];
		int free[6];
	} cases[] = {
		{false, {100, 201, 203, -1}, {101, 103, 200, -1}},
		{true, {100, 101, 103, 201, 203, -1}, {200, 102, 104, -1}},
	};

	for (unsigned i = 0; i < 2; i++) {
		int a = open_file(), b = open_file();

		assert_int_equal(lock_take(a, path, cases[i].write, NULL), 0);
		for (unsigned j = 0; cases[i].held[j] >= 0; j++) {
			struct flock write_lock = {.l_type = F_WRLCK, .l_start = cases[i].held[j], .l_len = 1};
			struct flock read_lock = {.l_type = F_RDLCK, .l_start = cases[i].held[j], .l_len = 1};

			assert_int_equal(fcntl(b, F_OFD_GETLK, &write_lock), 0);
			assert_int_equal(write_lock.l_type, F_RDLCK);
			assert_int_equal(fcntl(b, F_OFD_GETLK, &read_lock), 0);
			assert_int_equal(read_lock.l_type, F_UNLCK);
		}
		for (unsigned j = 0; cases[i].free[j] >= 0; j++) {
			struct flock lock = {.l_type = F_WRLCK, .l_start = cases[i].free[j], .l_len = 1};

			assert_int_equal(fcntl(b, F_OFD_GETLK, &lock), 0);
			assert_int_equal(lock.l_type, F_UNLCK);
		}
		close(a);
		close(b);
	}
}

static void another_process_that_holds_it_is_named(void **state)
{
	int ready[2], done[2], fd = open_file(), status;
	char wanted[32], byte = 'x';
	struct err err;
	pid_t child;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(done, O_CLOEXEC), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		int own = open(path, O_RDWR | O_CLOEXEC);
		int r = lock_take(own, path, true, NULL);

		close(done[1]);
		if (r || write(ready[1], &byte, 1) != 1 || read(done[0], &byte, 1) != 0)
			_exit(1);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(lock_take(fd, path, false, &err), VHD_E_IN_USE);
	snprintf(wanted, sizeof(wanted), "(pid %d)", (int)child);
	assert_non_null(strstr(err.text, wanted));
	close(done[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(lock_take(fd, path, true, NULL), 0);
	close(ready[0]);
	close(ready[1]);
	close(done[0]);
	close(fd);
}

/* A writer who is refused holds what would keep readers out, for a moment. */
static void a_reader_is_not_refused_because_a_writer_is_being_refused(void **state)
{
	struct flock write_use = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
	int reader = open_file(), status;
	struct timespec start, now;
	struct err err;
	pid_t child;

	assert_int_equal(lock_take(reader, path, false, &err), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		int own = open(path, O_RDWR | O_CLOEXEC);

		while (fcntl(own, F_OFD_SETLK, &write_use) == 0) {
			write_use.l_type = write_use.l_type == F_RDLCK ? F_UNLCK : F_RDLCK;
			if (write_use.l_type == F_RDLCK)
				usleep(500);
		}
		_exit(1);
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		int other = open_file();

		if (lock_take(other, path, false, &err)) {
			kill(child, SIGKILL);
			fail_msg("%s", err.text);
		}
		close(other);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - start.tv_sec < 2);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	close(reader);
}

/* Other programs do not wait for what the kernel does later, as lock_take does. */
static void a_closed_disk_is_locked_no_more(void **state)
{
	struct vhd_create_options create = {.size_bytes = 4 << 20, .overwrite = true};
	struct vhd_open_options write = {.flags = VHD_OPEN_WRITE};

	for (unsigned i = 0; i < 50; i++) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		struct blk_queue *queue;
		struct vhd *vhd;
		int fd;

		assert_int_equal(vhd_create(path, &create, NULL), 0);
		assert_int_equal(vhd_open(path, &write, &vhd, NULL), 0);
		assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, NULL), 0);
		assert_int_equal(blk_pwrite(queue, "x", 1, 0), 0);
		blk_queue_free(queue);
		assert_int_equal(vhd_close(vhd, NULL), 0);
		fd = open(path, O_RDWR | O_CLOEXEC);
		assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
		assert_int_equal(lock.l_type, F_UNLCK);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(readers_share_and_a_writer_is_alone),
		cmocka_unit_test(a_reader_becomes_the_writer_without_a_moment_between),
		cmocka_unit_test(a_reader_beside_others_stays_a_reader),
		cmocka_unit_test(a_refused_lock_leaves_nothing_behind),
		cmocka_unit_test(the_bytes_locked_are_those_of_qemu),
		cmocka_unit_test(another_process_that_holds_it_is_named),
		cmocka_unit_test(a_reader_is_not_refused_because_a_writer_is_being_refused),
		cmocka_unit_test(a_closed_disk_is_locked_no_more),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
