/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/local-socket.h"
#include "common/runtime-folder.h"
#include "tests/lib/temp-dir.h"

struct fixture {
	char *path;
	uid_t uid; /* of whom the cases are about */
	int folder;
};

/* Root's folder is in /run, where tests have no business: then it is about somebody else, whom a child becomes. */
static int fixture_make(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->path = temp_dir_new("runtime");
	f->uid = geteuid() == 0 ? 65534 : geteuid();
	if (chmod(f->path, 0700) || (geteuid() == 0 && chown(f->path, f->uid, (gid_t)-1)))
		return -1;
	f->folder = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return f->folder < 0;
}

static int fixture_drop(void **state)
{
	struct fixture *f = *state;

	close(f->folder);
	temp_dir_free(f->path);
	free(f);
	return 0;
}

/* Runs `body` as the fixture's user, with the fixture's folder as the user's runtime folder; its result is returned. */
static int as_user(struct fixture *f, int (*body)(struct fixture *f))
{
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		setenv("XDG_RUNTIME_DIR", f->path, 1);
		if (geteuid() == 0 && setresuid(f->uid, f->uid, f->uid))
			_exit(99);
		_exit(body(f));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* 0: made, in the fixture's folder. */
static int make(struct fixture *f)
{
	char path[RUNTIME_FOLDER_PATH_MAX], want[RUNTIME_FOLDER_PATH_MAX];
	struct err err = {.text = ""};
	int fd = runtime_folder_make("things", &err);

	snprintf(want, sizeof(want), "%s/things", f->path);
	if (fd < 0)
		return 2;
	return strcmp(runtime_folder_path(fd, path), want) == 0 ? 0 : 1;
}

static int open_it(struct fixture *f)
{
	int fd = runtime_folder_open("things", f->uid, 0);

	return fd >= 0 ? 0 : -fd;
}

static void the_folder_is_made_and_found_and_for_its_user_alone(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(as_user(f, open_it), ENOENT);
	assert_int_equal(as_user(f, make), 0);
	assert_int_equal(fstatat(f->folder, "things", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(as_user(f, make), 0);
	assert_int_equal(as_user(f, open_it), 0);
}

static void a_folder_that_others_may_enter_is_not_believed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(as_user(f, make), 0);
	assert_int_equal(fchmodat(f->folder, "things", 0710, 0), 0);
	assert_int_equal(as_user(f, open_it), ENOENT);
	assert_int_not_equal(as_user(f, make), 0);
}

static void a_symlink_is_not_believed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(as_user(f, make), 0);
	assert_int_equal(renameat(f->folder, "things", f->folder, "elsewhere"), 0);
	assert_int_equal(symlinkat("elsewhere", f->folder, "things"), 0);
	assert_int_equal(as_user(f, open_it), ENOENT);
}

static void another_users_folder_is_not_believed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkdirat(f->folder, "things", 0700), 0);
	assert_int_equal(fchownat(f->folder, "things", f->uid, (gid_t)-1, 0), 0);
	assert_int_equal(as_user(f, open_it), 0);
	if (geteuid() != 0) {
		print_message("only root can try it as another user\n");
		return;
	}
	assert_int_equal(fchmod(f->folder, 0755), 0);
	f->uid--;
	assert_int_equal(as_user(f, open_it), ENOENT);
	assert_int_not_equal(as_user(f, make), 0);
}

static void a_socket_connects_its_users_processes(void **state)
{
	struct fixture *f = *state;
	int listener = local_socket_listen(f->folder, "1.sock", 4), fd;
	pid_t pid = 0;
	struct stat st;
	char c;

	assert_true(listener >= 0);
	assert_int_equal(local_socket_listen(f->folder, "1.sock", 4), -EADDRINUSE);
	assert_int_equal(fstatat(f->folder, "1.sock", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	fd = local_socket_connect(f->folder, "1.sock", geteuid(), &pid);
	assert_true(fd >= 0);
	assert_int_equal(pid, getpid());
	close(listener);
	assert_true(read(fd, &c, 1) <= 0);
	close(fd);
	assert_int_equal(local_socket_connect(f->folder, "1.sock", geteuid(), &pid), -ECONNREFUSED);
}

static void a_symlink_or_file_or_anothers_socket_is_not_connected_to(void **state)
{
	struct fixture *f = *state;
	int listener = local_socket_listen(f->folder, "1.sock", 4), file;
	pid_t pid;

	assert_int_equal(symlinkat("1.sock", f->folder, "2.sock"), 0);
	assert_int_equal(local_socket_connect(f->folder, "2.sock", geteuid(), &pid), -ENOENT);
	file = openat(f->folder, "3.sock", O_CREAT | O_WRONLY, 0600);
	assert_int_equal(local_socket_connect(f->folder, "3.sock", geteuid(), &pid), -ENOENT);
	assert_int_equal(local_socket_connect(f->folder, "4.sock", geteuid(), &pid), -ENOENT);
	assert_int_equal(local_socket_connect(f->folder, "1.sock", geteuid() + 1, &pid), -ENOENT);
	close(file);
	close(listener);
}

static void a_process_that_accepts_nobody_is_not_waited_for_long(void **state)
{
	struct fixture *f = *state;
	int listener = local_socket_listen(f->folder, "1.sock", 0), fds[16], count = 0;
	pid_t pid;

	alarm(60);
	while (count < 16 && (fds[count] = local_socket_connect(f->folder, "1.sock", geteuid(), &pid)) >= 0)
		count++;
	assert_true(count < 16);
	assert_int_equal(fds[count], -EAGAIN);
	while (count)
		close(fds[--count]);
	close(listener);
	alarm(0);
}

static pid_t dead_process(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	assert_int_equal(waitpid(child, NULL, 0), child);
	return child;
}

static void touch(struct fixture *f, const char *name)
{
	int fd = openat(f->folder, name, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static void what_dead_processes_left_is_swept_and_nothing_else(void **state)
{
	struct fixture *f = *state;
	char dead[32], dead_socket[32], used_socket[32], own[32];
	pid_t pid = dead_process();
	int listener, used;

	snprintf(dead, sizeof(dead), "%d.mount", (int)pid);
	snprintf(dead_socket, sizeof(dead_socket), "%d-0.disk", (int)pid);
	snprintf(used_socket, sizeof(used_socket), "%d.sock", (int)pid);
	snprintf(own, sizeof(own), "%d.mount", (int)getpid());
	touch(f, dead);
	touch(f, own);
	touch(f, "notes");
	listener = local_socket_listen(f->folder, dead_socket, 1);
	close(listener);
	used = local_socket_listen(f->folder, used_socket, 1);
	runtime_folder_sweep(f->folder);
	assert_int_equal(faccessat(f->folder, dead, F_OK, 0), -1);
	assert_int_equal(faccessat(f->folder, dead_socket, F_OK, 0), -1);
	assert_int_equal(faccessat(f->folder, used_socket, F_OK, 0), 0);
	assert_int_equal(faccessat(f->folder, own, F_OK, 0), 0);
	assert_int_equal(faccessat(f->folder, "notes", F_OK, 0), 0);
	close(used);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, fixture_make, fixture_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(the_folder_is_made_and_found_and_for_its_user_alone),
	        CASE(a_folder_that_others_may_enter_is_not_believed),
	        CASE(a_symlink_is_not_believed),
	        CASE(another_users_folder_is_not_believed),
	        CASE(a_socket_connects_its_users_processes),
	        CASE(a_symlink_or_file_or_anothers_socket_is_not_connected_to),
	        CASE(a_process_that_accepts_nobody_is_not_waited_for_long),
	        CASE(what_dead_processes_left_is_swept_and_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
