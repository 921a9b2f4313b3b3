/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * vhd-mount: opens the image, mounts what is in it, and serves until it is unmounted. Without -f a child does all that
 * and the parent waits until the mount is there, so that errors reach the user and the exit status is true.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "common/standard-files.h"
#include "mountd/disk.h"
#include "mountd/fs.h"
#include "mountd/options.h"
#include "mountd/registry.h"
#include "mountd/select.h"
#include "mountd/session.h"
#include "vhd/control-server.h"
#include "vhd/vhd.h"

struct mount {
	const struct options *options;
	char image[PATH_MAX], dir[PATH_MAX];
	struct vhd *vhd;
	struct disk *disk;
	struct fs *fs;
	struct session *session;
	struct registration *registration;
	struct control_server *control;
	pthread_t idle;
	bool idling;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool ending;
};

/* Where the background process is: messages go to the log then. */
static bool in_background;
static const char *image_name;

static void tell(int level, const char *text)
{
	if (in_background)
		syslog(level, "%s: %s", image_name, text);
	else
		fprintf(stderr, "vhd-mount: %s: %s%s\n", image_name, level == LOG_WARNING ? "warning: " : "", text);
}

static void warn(const char *sentence)
{
	tell(LOG_WARNING, sentence);
}

static void warn_vhd(void *user, const char *sentence)
{
	(void)user;
	fprintf(stderr, "vhd-mount: warning: %s\n", sentence);
}

/* Writes out what has waited long enough. */
static void *idle_run(void *user)
{
	struct mount *m = user;
	bool failing = false;

	pthread_mutex_lock(&m->lock);
	while (!m->ending) {
		struct timespec until;
		int e;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 500000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&m->wake, &m->lock, &until);
		pthread_mutex_unlock(&m->lock);
		e = m->fs->ops->idle(m->fs);
		if (e && !failing) {
			char text[200];

			snprintf(text, sizeof(text), "changes cannot be written to the image: %s", strerror(-e));
			tell(LOG_ERR, text);
		}
		failing = e != 0;
		pthread_mutex_lock(&m->lock);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

static int paths_resolve(struct mount *m, struct err *err)
{
	struct stat stat_buffer;

	if (!realpath(m->options->image, m->image))
		return err_set(err, -errno, "%s", strerror(errno));
	if (!realpath(m->options->dir, m->dir) && errno != ENOTCONN)
		return err_set(err, -errno, "cannot mount on %s: %s", m->options->dir, strerror(errno));
	if (stat(m->options->dir, &stat_buffer) && errno == ENOTCONN)
		return err_set(err, -ENOTCONN, "%s is still the place of a mount whose process has died: release it with "
		               "vhd-umount %s", m->options->dir, m->options->dir);
	if (stat(m->dir, &stat_buffer) || !S_ISDIR(stat_buffer.st_mode))
		return err_set(err, -ENOTDIR, "cannot mount on %s: it is not a folder", m->options->dir);
	return 0;
}

static int image_open(struct mount *m, struct err *err)
{
	struct vhd_open_options options = {
		.flags = m->options->read_only ? 0 : VHD_OPEN_WRITE | (m->options->force ? VHD_OPEN_DESPITE_CHILDREN : 0),
		.parent = m->options->parent,
		.allow_dirs = m->options->allow_dirs,
		.warn = warn_vhd,
	};

	/* By its whole path: later the current folder is another, and upkeep renames files. */
	return vhd_open(m->image, &options, &m->vhd, err);
}

static int content_open(struct mount *m, struct err *err)
{
	bool read_only = m->options->read_only;
	struct volume volume;
	int e = disk_new(vhd_blk(m->vhd), &m->disk, err);

	if (e)
		return e;
	if (m->options->raw)
		return raw_open(m->disk, read_only, &m->fs, err);
	e = volume_select(m->disk, m->options->partition, read_only, &volume, err);
	return e ? e : ext_open(&volume, read_only, warn, &m->fs, err);
}

static void size_take(void *user, uint64_t size_bytes)
{
	struct mount *m = user;

	disk_resized(m->disk, size_bytes);
}

/* Without it the mount is as good; upkeep of the disk has to wait for its end. */
static void control_start(struct mount *m)
{
	const struct control_server_options options = {
		.vhd = m->vhd,
		.operations = &upkeep_operations,
		.path = m->image,
		.program = "vhd-mount",
		.writable = !m->options->read_only,
		.folder = -1,
	};
	struct err err = {.text = ""}, sentence;

	vhd_on_resize(m->vhd, size_take, m);
	if (control_server_new(&options, &m->control, &err) == 0)
		return;
	err_set(&sentence, 0, "vhd merge, snapshot, resize and compact will not find this mount: %s", err.text);
	warn(sentence.text);
}

/* The process is known before the mount is there, so that whoever sees the mount finds it. */
static int serve_start(struct mount *m, struct err *err)
{
	struct session_options options = {
		.source = m->image, .options = m->options->fuse, .cache = !m->options->raw,
	};
	int e = registration_new(m->image, m->dir, &m->registration, err);

	if (!e)
		e = session_new(m->fs, m->dir, &options, &m->session, err);
	if (!e) {
		e = -pthread_create(&m->idle, NULL, idle_run, m);
		if (e)
			err_set(err, e, "cannot start a thread: %s", strerror(-e));
		else
			m->idling = true;
	}
	if (!e)
		control_start(m);
	return e;
}

/* Everything in reverse. 0 or the first error, which is then what the waiters are told. */
static int mount_end(struct mount *m, struct err *err)
{
	struct err later;
	int e = 0, f;

	control_server_free(m->control);
	if (m->idling) {
		pthread_mutex_lock(&m->lock);
		m->ending = true;
		pthread_cond_signal(&m->wake);
		pthread_mutex_unlock(&m->lock);
		pthread_join(m->idle, NULL);
	}
	session_free(m->session);
	if (m->fs)
		e = m->fs->ops->close(m->fs, err);
	disk_free(m->disk);
	f = vhd_close(m->vhd, &later);
	if (f && !e) {
		e = f;
		*err = later;
	}
	registration_end(m->registration, e ? err->text : NULL);
	return e;
}

/* For all threads: session_run lets them through, to this one, while it serves. */
static void signals_block(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void go_to_background(int ready)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	uint8_t ok = 0;

	in_background = true;
	openlog("vhd-mount", LOG_PID, LOG_DAEMON);
	setsid();
	if (chdir("/"))
		syslog(LOG_WARNING, "cannot leave the current folder");
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	if (write(ready, &ok, 1) != 1)
		syslog(LOG_WARNING, "nobody waits for the mount");
	close(ready);
}

/* The exit status. `ready` is told of success (-1: foreground). */
static int mount_run(const struct options *options, int ready)
{
	struct mount m = {.options = options, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
	struct err err = {.text = ""};
	bool named = false;
	int e;

	signals_block();
	e = paths_resolve(&m, &err);
	if (!e) {
		e = image_open(&m, &err);
		named = e != 0; /* the engine's sentences begin with the file */
	}
	if (!e)
		e = content_open(&m, &err);
	if (!e)
		e = serve_start(&m, &err);
	if (!e) {
		if (ready >= 0)
			go_to_background(ready);
		e = session_run(m.session);
		if (e)
			err_set(&err, e, "serving the mount failed: %s", strerror(-e));
	}
	if (e) {
		struct err ignored;

		if (named)
			fprintf(stderr, "vhd-mount: %s\n", err.text);
		else
			tell(LOG_ERR, err.text);
		mount_end(&m, &ignored);
		return 1;
	}
	e = mount_end(&m, &err);
	if (e)
		tell(LOG_ERR, err.text);
	return e ? 1 : 0;
}

static int wait_for_child(pid_t child, int ready)
{
	uint8_t answer;
	int status;
	ssize_t n;

	while ((n = read(ready, &answer, 1)) < 0 && errno == EINTR)
		;
	if (n == 1)
		return 0;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
		return WEXITSTATUS(status);
	tell(LOG_ERR, "the mount process ended before the mount was there");
	return 1;
}

static int run(const struct options *options)
{
	int ready[2];
	pid_t child;

	if (options->foreground)
		return mount_run(options, -1);
	if (pipe2(ready, O_CLOEXEC)) {
		tell(LOG_ERR, strerror(errno));
		return 1;
	}
	child = fork();
	if (child < 0) {
		tell(LOG_ERR, strerror(errno));
		return 1;
	}
	if (child == 0) {
		close(ready[0]);
		return mount_run(options, ready[1]);
	}
	close(ready[1]);
	return wait_for_child(child, ready[0]);
}

int main(int argc, char **argv)
{
	struct options options;
	int status;

	if (standard_files_hold() < 0)
		return 1;
	options_read(argc, argv, &options);
	image_name = options.image;
	status = run(&options);
	free(options.allow_dirs);
	return status;
}
