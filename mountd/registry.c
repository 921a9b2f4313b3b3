/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/local-socket.h"
#include "common/runtime-folder.h"

#define REGISTRY "vhd-mount"
#define WAITERS_MAX 64

struct registration {
	int folder; /* descriptors, like the next */
	int listener;
	int stop; /* eventfd */
	char record[32], socket[32]; /* names in the folder */
	pthread_t thread;
	bool threaded;
	int waiters[WAITERS_MAX];
	unsigned waiter_count;
};

static int record_write(const struct registration *r, const char *image, const char *dir)
{
	int fd = openat(r->folder, r->record, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "w");

	if (!file)
		return -errno;
	fwrite(image, 1, strlen(image) + 1, file);
	fwrite(dir, 1, strlen(dir) + 1, file);
	return fclose(file) ? -errno : 0;
}

static void *serve(void *user)
{
	struct registration *r = user;
	struct pollfd fds[2] = {{.fd = r->listener, .events = POLLIN}, {.fd = r->stop, .events = POLLIN}};

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[1].revents)
			return NULL;
		if (fds[0].revents) {
			int fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

			if (fd >= 0 && r->waiter_count == WAITERS_MAX)
				close(fd);
			else if (fd >= 0)
				r->waiters[r->waiter_count++] = fd;
		}
	}
}

int registration_new(const char *image, const char *dir, struct registration **ret, struct err *err)
{
	struct registration *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return err_set(err, -ENOMEM, "out of memory");
	r->listener = r->stop = -1;
	r->folder = runtime_folder_make(REGISTRY, err);
	if (r->folder < 0) {
		e = r->folder;
		free(r);
		return e;
	}
	runtime_folder_sweep(r->folder);
	snprintf(r->record, sizeof(r->record), "%d.mount", (int)getpid());
	snprintf(r->socket, sizeof(r->socket), "%d.sock", (int)getpid());
	(void)unlinkat(r->folder, r->socket, 0);
	r->listener = local_socket_listen(r->folder, r->socket, WAITERS_MAX);
	r->stop = eventfd(0, EFD_CLOEXEC);
	e = r->listener < 0 ? r->listener : r->stop < 0 ? -errno : record_write(r, image, dir);
	if (!e)
		e = -pthread_create(&r->thread, NULL, serve, r);
	if (e) {
		char path[RUNTIME_FOLDER_PATH_MAX];

		err_set(err, e, "cannot register the mount in %s: %s", runtime_folder_path(r->folder, path), strerror(-e));
		registration_end(r, NULL);
		return e;
	}
	r->threaded = true;
	*ret = r;
	return 0;
}

void registration_end(struct registration *r, const char *failure)
{
	if (!r)
		return;
	if (r->threaded) {
		uint64_t one = 1;

		if (write(r->stop, &one, sizeof(one)) == sizeof(one))
			pthread_join(r->thread, NULL);
	}
	unlinkat(r->folder, r->record, 0);
	unlinkat(r->folder, r->socket, 0);
	/* Who has connected meanwhile. */
	for (int fd; r->listener >= 0 && r->waiter_count < WAITERS_MAX &&
	             (fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;)
		r->waiters[r->waiter_count++] = fd;
	for (unsigned i = 0; i < r->waiter_count; i++) {
		char text[600];
		int n = snprintf(text, sizeof(text), "%s\n", failure ? failure : "ok");

		(void)!send(r->waiters[i], text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1, MSG_NOSIGNAL);
		close(r->waiters[i]);
	}
	if (r->listener >= 0)
		close(r->listener);
	if (r->stop >= 0)
		close(r->stop);
	close(r->folder);
	free(r);
}

/* Whether the record names `dir`. */
static bool record_matches(int folder, const char *name, const char *dir)
{
	char text[2 * PATH_MAX + 2] = {0};
	int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	size_t image;

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	image = strlen(text) + 1;
	return image < (size_t)n && strcmp(text + image, dir) == 0;
}

static int connect_to(int folder, const char *name, uid_t uid, struct waiter *ret)
{
	pid_t pid;
	int fd = local_socket_connect(folder, name, uid, &pid);

	if (fd < 0)
		return fd;
	ret->process = (int)syscall(SYS_pidfd_open, pid, 0);
	if (ret->process < 0) {
		close(fd);
		return -ENOENT;
	}
	ret->socket = fd;
	ret->pid = pid;
	return 0;
}

/* Takes the descriptor over. */
static int search_folder(int folder, const char *dir, uid_t uid, struct waiter *ret)
{
	struct dirent *entry;
	int e = -ENOENT;
	DIR *d = fdopendir(folder);

	if (!d) {
		close(folder);
		return -ENOENT;
	}
	while (e && (entry = readdir(d))) {
		char socket[NAME_MAX + 1];
		size_t length = strlen(entry->d_name);

		if (length < 7 || strcmp(entry->d_name + length - 6, ".mount") != 0 ||
		    !record_matches(folder, entry->d_name, dir))
			continue;
		snprintf(socket, sizeof(socket), "%.*s.sock", (int)(length - 6), entry->d_name);
		e = connect_to(folder, socket, uid, ret);
	}
	closedir(d);
	return e;
}

int waiter_open(const char *dir, uid_t uid, struct waiter *ret, struct err *err)
{
	for (unsigned choice = 0; choice < RUNTIME_FOLDER_CHOICES; choice++) {
		int folder = runtime_folder_open(REGISTRY, uid, choice);

		if (folder >= 0 && search_folder(folder, dir, uid, ret) == 0)
			return 0;
	}
	return err_set(err, -ENOENT, "the process behind the mount is not known (was it killed?)");
}

int waiter_wait(struct waiter *waiter, struct err *err)
{
	struct pollfd ended = {.fd = waiter->process, .events = POLLIN};
	char text[600];
	size_t used = 0;
	int e = 0;

	for (;;) {
		ssize_t n = read(waiter->socket, text + used, sizeof(text) - 1 - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		used += (size_t)n;
	}
	text[used] = 0;
	text[strcspn(text, "\n")] = 0;
	if (strcmp(text, "ok") != 0)
		e = err_set(err, -EIO, "%s", used ? text : "the process behind the mount ended without saying that everything is "
		            "on disk: run e2fsck on the file system");
	while (poll(&ended, 1, -1) < 0 && errno == EINTR)
		;
	waiter_close(waiter);
	return e;
}

void waiter_close(struct waiter *waiter)
{
	close(waiter->socket);
	close(waiter->process);
}
