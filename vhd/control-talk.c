/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/control-talk.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

void talk_begin(struct talk *talk, int fd)
{
	*talk = (struct talk){.fd = fd, .in = malloc(CONTROL_REPLY_MAX)};
}

void talk_end(struct talk *talk)
{
	free(talk->in);
}

/* `until_ms` on CLOCK_MONOTONIC. A signal ends the wait, so that the caller sees what it set. */
static int wait_for(int fd, short events, int64_t until_ms)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};
	struct timespec now;
	int64_t left;
	int n;

	clock_gettime(CLOCK_MONOTONIC, &now);
	left = until_ms - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
	n = left <= 0 ? 0 : poll(&poll_fd, 1, (int)left);
	if (n < 0 && errno != EINTR)
		return -errno;
	return n > 0 ? 0 : -ETIMEDOUT;
}

static int64_t deadline_ms(int patience_ms)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + patience_ms;
}

int talk_send(int fd, const char *text, size_t length)
{
	int64_t until = deadline_ms(TALK_PATIENCE_MS);

	while (length > 0) {
		ssize_t n = send(fd, text, length, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN) {
			int r = wait_for(fd, POLLOUT, until);

			if (r)
				return r;
		} else if (n < 0 && errno != EINTR) {
			return -EPIPE;
		} else if (n > 0) {
			text += n;
			length -= (size_t)n;
		}
	}
	return 0;
}

/* What is printed must not be able to steer a terminal. */
static void value_clean(const char *value)
{
	for (char *c = (char *)value; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
}

static int line_take(struct talk *talk, struct control_line *ret)
{
	size_t length;

	memmove(talk->in, talk->in + talk->taken, talk->used - talk->taken);
	talk->used -= talk->taken;
	talk->taken = 0;
	length = control_line_length(talk->in, talk->used);
	if (length == 0)
		return talk->used == CONTROL_REPLY_MAX ? -EPROTO : -EAGAIN;
	talk->taken = length;
	if (control_line_parse(talk->in, length - 1, ret))
		return -EPROTO;
	for (unsigned i = 0; i < ret->count; i++)
		value_clean(ret->words[i].value);
	return 0;
}

int talk_line(struct talk *talk, int patience_ms, struct control_line *ret)
{
	int64_t until = deadline_ms(patience_ms);

	if (!talk->in)
		return -ENOMEM;
	for (;;) {
		int r = line_take(talk, ret);
		ssize_t n;

		if (r != -EAGAIN)
			return r;
		n = recv(talk->fd, talk->in + talk->used, CONTROL_REPLY_MAX - talk->used, MSG_DONTWAIT);
		if (n > 0) {
			talk->used += (size_t)n;
			continue;
		}
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			return -EPIPE;
		r = wait_for(talk->fd, POLLIN, until);
		if (r)
			return r;
	}
}
