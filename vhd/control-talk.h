/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CONTROL_TALK_H
#define VHD_CONTROL_TALK_H

/* The asking side of a control socket: whole requests out, replies in line by line, nobody waited for forever. */

#include "vhd/control-wire.h"

#define TALK_PATIENCE_MS 2000

struct talk {
	int fd;
	char *in; /* owned */
	size_t used, taken; /* bytes in `in`; of the line that was given out last */
};

void talk_begin(struct talk *talk, int fd);
void talk_end(struct talk *talk);

/* 0; -ETIMEDOUT: nobody took it; -EPIPE. */
int talk_send(int fd, const char *text, size_t length);

/*
 * The next line, which lives until the next call; control characters in it are '?'. -ETIMEDOUT; -EPIPE: the other end
 * is gone; -EPROTO: what came is no line.
 */
int talk_line(struct talk *talk, int patience_ms, struct control_line *ret);

#endif
