/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Runs vhd-fs-unused: finds it, starts it, reads its two outputs until both end, and waits for it. */

#include "vhd/fs-unused.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/interrupt.h"

#define NAME "vhd-fs-unused"
#define LINE_MAX_BYTES 1024u /* longer lines make no sense; those of standard error are cut */
#define NOTES_MAX 200u       /* sentences of standard error that are told */
#define HELPER_SECONDS 960u  /* more than it allows itself */

extern char **environ;

int fs_unused_helper(char *ret, struct err *err)
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length > 0) {
		char *slash;

		self[length] = 0;
		slash = strrchr(self, '/');
		*slash = 0;
		/* <build>/vhd/vhd beside <build>/mountd: installed commands lie in no folder of that name. */
		if (slash - self > 4 && strcmp(slash - 4, "/vhd") == 0 &&
		    snprintf(ret, PATH_MAX, "%.*s/mountd/" NAME, (int)(slash - 4 - self), self) < PATH_MAX &&
		    access(ret, X_OK) == 0)
			return 0;
	}
	snprintf(ret, PATH_MAX, "%s/" NAME, VHD_PKGLIBEXECDIR);
	if (access(ret, X_OK) == 0)
		return 0;
	return err_set(err, -ENOENT, "file systems cannot be looked at: the program %s is not there (it comes with vhd-mount; "
	               "a build with --disable-mount has none)", ret);
}

/* What the helper has said on one of its outputs, in lines. */
struct stream {
	int fd; /* -1: it has ended */
	char line[LINE_MAX_BYTES];
	size_t length;
};

struct run {
	const struct fs_unused_options *options;
	struct fs_unused_parser parser;
	struct stream out, notes;
	unsigned note_count;
	char last_note[LINE_MAX_BYTES]; /* not told yet: it may be why there is no list */
	int64_t end_ms; /* when its time is over */
	pid_t pid;
};

static void note_flush(struct run *r)
{
	if (r->last_note[0] && r->note_count < NOTES_MAX && r->options->note) {
		r->options->note(r->options->user, r->last_note);
		r->note_count++;
	}
	r->last_note[0] = 0;
}

/* The helper's sentences become ours. */
static void note_line(struct run *r, char *line)
{
	const char *text = strncmp(line, NAME ": ", strlen(NAME ": ")) == 0 ? line + strlen(NAME ": ") : line;

	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	note_flush(r);
	snprintf(r->last_note, sizeof(r->last_note), "%s", text);
}

/* Bytes of an output; whole lines go on. 0 or -errno. */
static int stream_read(struct run *r, struct stream *s, struct err *err)
{
	char bytes[16384];
	ssize_t n = read(s->fd, bytes, sizeof(bytes));
	int e = 0;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0)
		return err_set(err, -errno, "cannot read what " NAME " says: %s", strerror(errno));
	if (n == 0) {
		close(s->fd);
		s->fd = -1;
		s->line[s->length] = 0;
		/* Without its newline the last line of a list is not to be trusted; that of a sentence is. */
		if (s == &r->notes && s->length)
			note_line(r, s->line);
		else if (s->length)
			r->parser.ended = false;
		return 0;
	}
	for (ssize_t i = 0; i < n && !e; i++) {
		if (bytes[i] == 0)
			bytes[i] = '?';
		if (bytes[i] != '\n') {
			if (s->length < sizeof(s->line) - 1)
				s->line[s->length++] = bytes[i];
			else if (s == &r->out)
				e = err_set(err, -EPROTO, NAME " says a line that is too long");
			continue;
		}
		s->line[s->length] = 0;
		if (s == &r->notes)
			note_line(r, s->line);
		else
			e = fs_unused_parse_line(&r->parser, s->line, err);
		s->length = 0;
	}
	return e;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int listen_to(struct run *r, struct err *err)
{
	unsigned seconds = r->options->timeout_seconds ? r->options->timeout_seconds : HELPER_SECONDS;
	int e = 0;

	r->end_ms = now_ms() + (int64_t)seconds * 1000;
	while (!e && (r->out.fd >= 0 || r->notes.fd >= 0)) {
		struct pollfd fds[] = {{.fd = r->out.fd, .events = POLLIN}, {.fd = r->notes.fd, .events = POLLIN}};
		int64_t left = r->end_ms - now_ms();

		if (interrupt_seen())
			return err_set(err, -ECANCELED, "interrupted");
		if (left <= 0)
			return err_set(err, -ETIMEDOUT, NAME " did not finish within %u seconds, so the file systems stay as they "
			               "are", seconds);
		if (poll(fds, 2, left > 1000 ? 1000 : (int)left) < 0 && errno != EINTR)
			return err_set(err, -errno, "cannot wait for " NAME ": %s", strerror(errno));
		if (r->out.fd >= 0 && fds[0].revents)
			e = stream_read(r, &r->out, err);
		if (!e && r->notes.fd >= 0 && fds[1].revents)
			e = stream_read(r, &r->notes, err);
	}
	return e;
}

/*
 * The helper's end, which comes soon after that of its outputs, or by force: after a failure (`e`), an interruption, or
 * when its time is over. Returns what went wrong, and its status.
 */
static int helper_wait(struct run *r, int e, int *status, struct err *err)
{
	for (;;) {
		pid_t pid = waitpid(r->pid, status, WNOHANG);

		if (pid == r->pid)
			return e;
		if (pid < 0 && errno != EINTR)
			return e ? e : err_set(err, -errno, "cannot wait for " NAME ": %s", strerror(errno));
		if (!e && now_ms() > r->end_ms)
			e = err_set(err, -ETIMEDOUT, NAME " does not end");
		if (e || interrupt_seen())
			kill(r->pid, SIGKILL);
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
}

static int helper_end(struct run *r, const char *path, int e, struct err *err)
{
	int status = 0;

	e = helper_wait(r, e, &status, err);
	/* An interruption from the keyboard reaches the helper as well. */
	if (interrupt_seen())
		return err_set(err, -ECANCELED, "interrupted");
	if (e)
		return e;
	if (WIFSIGNALED(status)) {
		int number = WTERMSIG(status);

		return err_set(err, -EIO, "%s: its file systems could not be looked at: " NAME " %s (%s)", path,
		               number == SIGXCPU || number == SIGALRM || number == SIGKILL ? "took too long or too much memory"
		                                                                           : "crashed",
		               strsignal(number));
	}
	if (WEXITSTATUS(status) == 0)
		return fs_unused_parse_end(&r->parser, err);
	if (!r->last_note[0])
		return err_set(err, -EIO, "%s: its file systems could not be looked at: " NAME " failed and did not say why", path);
	err_set(err, -EIO, "%s", r->last_note);
	r->last_note[0] = 0;
	return -EIO;
}

/* NULL: no memory. */
static char **arguments_make(const char *helper, const char *path, const struct fs_unused_options *o)
{
	size_t dirs = 0, n = 0;
	char **argv;

	while (o->allow_dirs && o->allow_dirs[dirs])
		dirs++;
	argv = calloc(dirs * 2 + 8, sizeof(*argv));
	if (!argv)
		return NULL;
	argv[n++] = (char *)helper;
	if (o->parent) {
		argv[n++] = (char *)"--parent";
		argv[n++] = (char *)o->parent;
	}
	if (o->parent_raw)
		argv[n++] = (char *)"--parent-raw";
	for (size_t i = 0; i < dirs; i++) {
		argv[n++] = (char *)"--allow-dir";
		argv[n++] = (char *)o->allow_dirs[i];
	}
	argv[n++] = (char *)"--";
	argv[n] = (char *)path;
	return argv;
}

static int spawn(struct run *r, const char *helper, char **argv, int out, int notes, struct err *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, restored;
	int e = posix_spawn_file_actions_init(&actions);

	if (e)
		return err_set(err, -e, "cannot start %s: %s", helper, strerror(e));
	e = posix_spawnattr_init(&attributes);
	if (e) {
		posix_spawn_file_actions_destroy(&actions);
		return err_set(err, -e, "cannot start %s: %s", helper, strerror(e));
	}
	/* A reader that is gone ends it, whatever this process does about SIGPIPE. */
	sigemptyset(&none);
	sigemptyset(&restored);
	sigaddset(&restored, SIGPIPE);
	e = posix_spawnattr_setsigmask(&attributes, &none);
	if (!e)
		e = posix_spawnattr_setsigdefault(&attributes, &restored);
	if (!e)
		e = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (!e)
		e = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	if (!e)
		e = posix_spawn_file_actions_adddup2(&actions, out, 1);
	if (!e)
		e = posix_spawn_file_actions_adddup2(&actions, notes, 2);
	if (!e)
		e = posix_spawn(&r->pid, helper, &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return e ? err_set(err, -e, "cannot start %s: %s", helper, strerror(e)) : 0;
}

static void pipe_close(const int *fds)
{
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int run(struct run *r, const char *helper, const char *path, struct err *err)
{
	int out[2] = {-1, -1}, notes[2] = {-1, -1};
	char **argv = arguments_make(helper, path, r->options);
	int e;

	if (!argv)
		return err_set(err, -ENOMEM, "out of memory");
	if (pipe2(out, O_CLOEXEC) || pipe2(notes, O_CLOEXEC))
		e = err_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
	else
		e = spawn(r, helper, argv, out[1], notes[1], err);
	free(argv);
	if (e) {
		pipe_close(out);
		pipe_close(notes);
		return e;
	}
	close(out[1]);
	close(notes[1]);
	r->out.fd = out[0];
	r->notes.fd = notes[0];
	e = listen_to(r, err);
	e = helper_end(r, path, e, err);
	if (r->out.fd >= 0)
		close(r->out.fd);
	if (r->notes.fd >= 0)
		close(r->notes.fd);
	note_flush(r);
	return e;
}

int fs_unused_read(const char *path, const struct fs_unused_options *options, struct fs_unused *ret, struct err *err)
{
	static const struct fs_unused_options defaults;
	char found[PATH_MAX];
	struct run *r;
	int e = 0;

	*ret = (struct fs_unused){0};
	if (!options)
		options = &defaults;
	if (!options->helper)
		e = fs_unused_helper(found, err);
	if (e)
		return e;
	r = calloc(1, sizeof(*r));
	if (!r)
		return err_set(err, -ENOMEM, "out of memory");
	*r = (struct run){.options = options, .parser = {.ret = ret}, .out = {.fd = -1}, .notes = {.fd = -1}};
	e = run(r, options->helper ? options->helper : found, path, err);
	free(r);
	if (e)
		fs_unused_done(ret);
	return e;
}
