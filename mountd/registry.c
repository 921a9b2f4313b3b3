/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define WAITERS_MAX 64

struct registration {
	char folder[80];
	char record[110], socket_path[110];
	int listener;
	int stop; /* eventfd */
	pthread_t thread;
	bool threaded;
	int waiters[WAITERS_MAX];
	unsigned waiter_count;
};

/* The places where a user's registry may be, the best first. */
static bool folder_name(uid_t uid, unsigned choice, char *ret, size_t size)
{
	const char *runtime = uid == geteuid() ? getenv("XDG_RUNTIME_DIR") : NULL;

	if (choice == 0 && uid == 0)
		return snprintf(ret, size, "/run/vhd-mount") > 0;
	if (choice == 0 && runtime && runtime[0] == '/')
		return snprintf(ret, size, "%s/vhd-mount", runtime) < (int)size;
	if (choice <= 1 && uid != 0 && snprintf(ret, size, "/run/user/%u/vhd-mount", (unsigned)uid) > 0 && choice == 1)
		return true;
	return choice == 2 && snprintf(ret, size, "/tmp/vhd-mount-%u", (unsigned)uid) > 0;
}

/* Others must not be able to put anything there, nor to have it put elsewhere. */
static bool folder_is_safe(const char *path, uid_t uid)
{
	struct stat stat;

	return lstat(path, &stat) == 0 && S_ISDIR(stat.st_mode) && stat.st_uid == uid && !(stat.st_mode & 077);
}

static int folder_make(char *ret, size_t size, struct err *err)
{
	for (unsigned choice = 0; choice < 3; choice++) {
		if (!folder_name(geteuid(), choice, ret, size))
			continue;
		(void)mkdir(ret, 0700);
		if (folder_is_safe(ret, geteuid()) && access(ret, W_OK) == 0)
			return 0;
	}
	return err_set(err, -EACCES, "no folder to register the mount in: set XDG_RUNTIME_DIR to a folder of your own that "
	               "only you can enter");
}

static int record_write(const struct registration *r, const char *image, const char *dir)
{
	int fd = open(r->record, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
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

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	(void)unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, WAITERS_MAX)) {
		int e = -errno;

		close(fd);
		return e;
	}
	return fd;
}

/* Takes away what killed processes left. */
static void folder_sweep(const char *folder)
{
	struct dirent *entry;
	DIR *d = opendir(folder);

	while (d && (entry = readdir(d))) {
		char *end;
		long pid = strtol(entry->d_name, &end, 10);

		if (end != entry->d_name && pid > 0 && (!strcmp(end, ".mount") || !strcmp(end, ".sock")) &&
		    kill((pid_t)pid, 0) && errno == ESRCH)
			(void)unlinkat(dirfd(d), entry->d_name, 0);
	}
	if (d)
		closedir(d);
}

int registration_new(const char *image, const char *dir, struct registration **ret, struct err *err)
{
	struct registration *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return err_set(err, -ENOMEM, "out of memory");
	r->listener = r->stop = -1;
	e = folder_make(r->folder, sizeof(r->folder), err);
	if (e) {
		free(r);
		return e;
	}
	folder_sweep(r->folder);
	snprintf(r->record, sizeof(r->record), "%s/%d.mount", r->folder, (int)getpid());
	snprintf(r->socket_path, sizeof(r->socket_path), "%s/%d.sock", r->folder, (int)getpid());
	r->listener = listen_at(r->socket_path);
	r->stop = eventfd(0, EFD_CLOEXEC);
	e = r->listener < 0 ? r->listener : r->stop < 0 ? -errno : record_write(r, image, dir);
	if (!e)
		e = -pthread_create(&r->thread, NULL, serve, r);
	if (e) {
		err_set(err, e, "cannot register the mount in %s: %s", r->folder, strerror(-e));
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
	unlink(r->record);
	unlink(r->socket_path);
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
	free(r);
}

/* Whether the record names `dir`. */
static bool record_matches(const char *path, const char *dir)
{
	char text[2 * PATH_MAX + 2] = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	size_t image;

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	image = strlen(text) + 1;
	return image < (size_t)n && strcmp(text + image, dir) == 0;
}

static int connect_to(const char *path, uid_t uid, struct waiter *ret)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) || peer.uid != uid) {
		close(fd);
		return -ENOENT;
	}
	ret->process = (int)syscall(SYS_pidfd_open, peer.pid, 0);
	if (ret->process < 0) {
		close(fd);
		return -ENOENT;
	}
	ret->socket = fd;
	ret->pid = peer.pid;
	return 0;
}

static int search_folder(const char *folder, const char *dir, uid_t uid, struct waiter *ret)
{
	struct dirent *entry;
	int e = -ENOENT;
	DIR *d;

	if (!folder_is_safe(folder, uid))
		return -ENOENT;
	d = opendir(folder);
	while (e && d && (entry = readdir(d))) {
		char path[sizeof(((struct sockaddr_un *)0)->sun_path) + NAME_MAX + 8];
		size_t length = strlen(entry->d_name);

		if (length < 7 || strcmp(entry->d_name + length - 6, ".mount") != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		if (!record_matches(path, dir))
			continue;
		snprintf(path, sizeof(path), "%s/%.*s.sock", folder, (int)(length - 6), entry->d_name);
		e = connect_to(path, uid, ret);
	}
	if (d)
		closedir(d);
	return e;
}

int waiter_open(const char *dir, uid_t uid, struct waiter *ret, struct err *err)
{
	for (unsigned choice = 0; choice < 3; choice++) {
		char folder[80];

		if (folder_name(uid, choice, folder, sizeof(folder)) && search_folder(folder, dir, uid, ret) == 0)
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
