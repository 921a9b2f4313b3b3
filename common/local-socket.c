/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/local-socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECT_SECONDS 2

static int address_of(int folder, const char *name, struct sockaddr_un *ret)
{
	int n;

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	n = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d%s%s", folder, name ? "/" : "",
	             name ? name : "");
	return n < (int)sizeof(ret->sun_path) ? 0 : -ENAMETOOLONG;
}

int local_socket_listen(int folder, const char *name, int backlog)
{
	struct sockaddr_un address;
	int r = address_of(folder, name, &address), fd;

	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Nobody can connect before listen; until then the mode is made right. */
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || fchmodat(folder, name, 0600, 0) ||
	    listen(fd, backlog)) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

int local_socket_peer(int fd, uid_t *uid, pid_t *pid)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length))
		return -errno;
	*uid = peer.uid;
	*pid = peer.pid;
	return 0;
}

static int connect_to(int handle, uid_t uid, pid_t *pid)
{
	/* A process that was stopped accepts nobody; connecting to it waits no longer than this. */
	const struct timeval patience = {.tv_sec = CONNECT_SECONDS}, forever = {0};
	struct sockaddr_un address;
	int r = address_of(handle, NULL, &address), fd;
	uid_t peer_uid;

	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &forever, sizeof(forever)))
		r = -errno;
	if (!r)
		r = local_socket_peer(fd, &peer_uid, pid);
	if (!r && peer_uid != uid)
		r = -ENOENT;
	if (!r)
		return fd;
	close(fd);
	return r;
}

int local_socket_connect(int folder, const char *name, uid_t uid, pid_t *pid)
{
	int handle = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), r;
	struct stat st;

	if (handle < 0)
		return -errno;
	if (fstat(handle, &st) < 0)
		r = -errno;
	else if (!S_ISSOCK(st.st_mode) || st.st_uid != uid)
		r = -ENOENT;
	else
		r = connect_to(handle, uid, pid);
	close(handle);
	return r;
}
