/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/runtime-folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/local-socket.h"

/* The places where it may be, the best first. */
static bool path_of(const char *name, uid_t uid, unsigned choice, char *ret, size_t size)
{
	const char *runtime = uid == geteuid() ? getenv("XDG_RUNTIME_DIR") : NULL;
	int n = -1;

	if (choice == 0 && uid == 0)
		n = snprintf(ret, size, "/run/%s", name);
	else if (choice == 0 && runtime && runtime[0] == '/')
		n = snprintf(ret, size, "%s/%s", runtime, name);
	else if (choice == 1 && uid != 0)
		n = snprintf(ret, size, "/run/user/%u/%s", (unsigned)uid, name);
	else if (choice == 2)
		n = snprintf(ret, size, "/tmp/%s-%u", name, (unsigned)uid);
	return n > 0 && (size_t)n < size;
}

/* Others must not be able to put anything there, nor to have it put elsewhere. */
static int open_if_safe(const char *path, uid_t uid)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -ENOENT;
	if (fstat(fd, &st) == 0 && st.st_uid == uid && !(st.st_mode & 077))
		return fd;
	close(fd);
	return -ENOENT;
}

int runtime_folder_make(const char *name, struct err *err)
{
	char path[RUNTIME_FOLDER_PATH_MAX];

	for (unsigned choice = 0; choice < RUNTIME_FOLDER_CHOICES; choice++) {
		int fd;

		if (!path_of(name, geteuid(), choice, path, sizeof(path)))
			continue;
		(void)mkdir(path, 0700);
		fd = open_if_safe(path, geteuid());
		if (fd >= 0 && faccessat(fd, ".", W_OK, AT_EACCESS) == 0)
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return err_set(err, -EACCES, "no folder to be found by: set XDG_RUNTIME_DIR to a folder of your own that only you "
	               "can enter");
}

int runtime_folder_open(const char *name, uid_t uid, unsigned choice)
{
	char path[RUNTIME_FOLDER_PATH_MAX];

	return path_of(name, uid, choice, path, sizeof(path)) ? open_if_safe(path, uid) : -ENOENT;
}

char *runtime_folder_path(int folder, char ret[RUNTIME_FOLDER_PATH_MAX])
{
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", folder);
	n = readlink(link, ret, RUNTIME_FOLDER_PATH_MAX - 1);
	strcpy(n < 0 ? ret : ret + n, n < 0 ? "the runtime folder" : "");
	return ret;
}

/*
 * Process ids are not the same in every container that shares the folder, so a socket goes only if, besides, nobody
 * listens there.
 */
static bool is_left_over(int folder, const char *name)
{
	char *end;
	long pid = strtol(name, &end, 10);
	struct stat st;
	int fd;

	if (end == name || pid <= 0 || (*end != '.' && *end != '-') || kill((pid_t)pid, 0) == 0 || errno != ESRCH)
		return false;
	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode)) {
		pid_t other;

		fd = local_socket_connect(folder, name, geteuid(), &other);
		if (fd >= 0)
			close(fd);
		return fd == -ECONNREFUSED;
	}
	return true;
}

void runtime_folder_sweep(int folder)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (is_left_over(folder, entry->d_name))
			(void)unlinkat(folder, entry->d_name, 0);
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
}
