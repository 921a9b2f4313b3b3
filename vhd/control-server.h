/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CONTROL_SERVER_H
#define VHD_CONTROL_SERVER_H

/*
 * In a process that has a disk open: a thread that takes requests for upkeep on a socket of the user's runtime folder
 * (docs/control.md), and a thread more while one is worked on. For programs; libvhd is without it.
 */

#include <stdbool.h>

#include "vhd/upkeep-request.h"

#define CONTROL_FOLDER "vhdkit"

struct control_server_options {
	struct vhd *vhd;
	const struct upkeep_operations *operations;
	const char *path;    /* of the disk: absolute, as the user knows it */
	const char *program; /* "vhd-mount" */
	bool writable;       /* opened with VHD_OPEN_WRITE; else it only says who has the disk */
	int folder;          /* a descriptor of where the socket is to be, taken over; -1: the user's runtime folder */
};

struct control_server;

/* What `options` points to, but for the strings, must live on until control_server_free. 0 or -errno. */
int control_server_new(const struct control_server_options *options, struct control_server **ret, struct err *err);

/*
 * Takes no more requests, cancels what is being worked on, and waits until that has ended: afterwards the disk may be
 * closed. NULL-safe.
 */
void control_server_free(struct control_server *server);

#endif
