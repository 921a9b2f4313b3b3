/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_LOCAL_SOCKET_H
#define COMMON_LOCAL_SOCKET_H

/*
 * Unix stream sockets in a folder that is held by a descriptor, so that nobody can put another in its place, and so
 * that the folder's path may be longer than a socket address.
 */

#include <sys/types.h>

/*
 * Listens as `name` in `folder`; only the user can connect (mode 0600). A non-blocking descriptor, or -errno:
 * -EADDRINUSE, there is something of that name.
 */
int local_socket_listen(int folder, const char *name, int backlog);

/*
 * Connects to the socket `name` in `folder`, which must be `uid`'s own, no symlink, and answered by a process of that
 * user's: *pid. A blocking descriptor, or -errno: -ECONNREFUSED, its process is gone; -EAGAIN, it is busy;
 * -ENOENT, there is none, or it may not be trusted.
 */
int local_socket_connect(int folder, const char *name, uid_t uid, pid_t *pid);

/* Who is at the other end. 0 or -errno. */
int local_socket_peer(int fd, uid_t *uid, pid_t *pid);

#endif
