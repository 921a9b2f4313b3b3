/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/local-socket.h"
#include "tests/lib/control.h"
#include "tests/lib/temp-dir.h"
#include "vhd/job.h"

static struct fake *fake_of(const struct vhd *vhd)
{
	return (struct fake *)vhd;
}

static unsigned fake_layer_count(const struct vhd *vhd)
{
	return fake_of(vhd)->layer_count;
}

static void fake_layer_info(const struct vhd *vhd, unsigned layer, struct vhd_info *ret)
{
	*ret = (struct vhd_info){.path = fake_of(vhd)->paths[layer], .size_bytes = fake_of(vhd)->size};
	ret->uuid[0] = (uint8_t)(100 + layer);
}

/* The work itself: quick, or for as long as nobody cancels it. */
static int fake_work(struct fake *fake, struct vhd_job *job, struct err *err)
{
	int r;

	fake->calls++;
	job_total(job, JOB_TOTAL);
	do {
		r = job_step(job, 1000);
		usleep(1000);
	} while (!r && fake->endless);
	if (r)
		err_set(err, r, "cancelled");
	else if (fake->result)
		r = err_set(err, fake->result, "%s", fake->sentence);
	fake->ended = 1000 + r;
	return r;
}

static int fake_merge(struct vhd *vhd, const struct vhd_merge_options *options, struct vhd_merge_result *ret,
                      struct err *err)
{
	struct fake *fake = fake_of(vhd);
	int r;

	fake->merge = *options;
	options->warn(options->user, "first warning");
	options->warn(options->user, "second\nwarning");
	r = fake_work(fake, options->job, err);
	*ret = (struct vhd_merge_result){.merged_bytes = 11, .written_bytes = 22};
	return r;
}

static int fake_children_find(const struct vhd_info *layer, struct children *ret, struct err *err)
{
	(void)layer;
	(void)err;
	*ret = (struct children){0};
	return 0;
}

static int fake_child_prepare(struct vhd *vhd, const char *frozen, struct vhd_child **ret, struct err *err)
{
	(void)err;
	snprintf(fake_of(vhd)->frozen, sizeof(fake_of(vhd)->frozen), "%s", frozen);
	*ret = (struct vhd_child *)vhd;
	return 0;
}

static int fake_switch_child(struct vhd *vhd, struct vhd_child *child, struct err *err)
{
	assert_ptr_equal(child, vhd);
	return fake_work(fake_of(vhd), NULL, err);
}

static int fake_resize(struct vhd *vhd, uint64_t size_bytes, const struct vhd_resize_options *options,
                       struct vhd_resize_result *ret, struct err *err)
{
	fake_of(vhd)->resized = size_bytes;
	ret->cut_bytes = 4711;
	return fake_work(fake_of(vhd), options->job, err);
}

static int fake_compact(struct vhd *vhd, const struct vhd_compact_options *options, struct vhd_compact_result *ret,
                        struct err *err)
{
	fake_of(vhd)->compact = *options;
	*ret = (struct vhd_compact_result){.before_bytes = 9, .after_bytes = 8, .freed_blocks = 7};
	return fake_work(fake_of(vhd), options->job, err);
}

static const struct upkeep_operations fakes = {
        .layer_count = fake_layer_count,
        .layer_info = fake_layer_info,
        .children_find = fake_children_find,
        .merge = fake_merge,
        .child_prepare = fake_child_prepare,
        .switch_child = fake_switch_child,
        .resize = fake_resize,
        .compact = fake_compact,
};

void fake_make(struct fake *fake)
{
	fake->folder = temp_dir_new("control");
	fake->layer_count = LAYERS;
	fake->size = 1 << 20;
	for (unsigned i = 0; i < LAYERS; i++) {
		int fd;

		snprintf(fake->paths[i], sizeof(fake->paths[i]), "%s/layer %u.vhd", fake->folder, i);
		fd = open(fake->paths[i], O_CREAT | O_WRONLY, 0600);
		assert_true(fd >= 0);
		close(fd);
	}
}

struct control_server *server_start(struct fake *fake, int folder, bool writable)
{
	struct control_server_options options = {
	        .vhd = (struct vhd *)fake,
	        .operations = &fakes,
	        .path = fake->paths[0],
	        .program = "a test",
	        .writable = writable,
	        .folder = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
	};
	struct control_server *server;
	struct err err = {.text = ""};

	if (control_server_new(&options, &server, &err))
		fail_msg("%s", err.text);
	return server;
}

int control_fixture_make(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	alarm(120);
	fake_make(&f->fake);
	f->folder = open(f->fake.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->server = server_start(&f->fake, f->folder, true);
	*state = f;
	return 0;
}

int control_fixture_drop(void **state)
{
	struct fixture *f = *state;

	control_server_free(f->server);
	close(f->folder);
	temp_dir_free(f->fake.folder);
	free(f);
	alarm(0);
	return 0;
}

struct upkeep_file file_of(const struct fixture *f, unsigned layer)
{
	struct upkeep_file file;

	assert_int_equal(upkeep_file_find(f->fake.paths[layer], &file), 0);
	return file;
}

void owner_find(struct fixture *f, unsigned layer, struct control_owner *ret)
{
	struct control_owner owners[CONTROL_OWNERS_MAX];

	assert_int_equal(control_find(file_of(f, layer), f->folder, owners), 1);
	*ret = owners[0];
}

/* --- Asking, and what one hears meanwhile --- */

static void hear_started(void *user, uint64_t job)
{
	struct heard *heard = user;

	heard->job = job;
	heard->begun = true;
}

static void hear_progress(void *user, const struct vhd_job_status *status)
{
	struct heard *heard = user;

	heard->progresses++;
	heard->done = status->done_bytes;
	heard->total = status->total_bytes;
	heard->paused = status->paused;
}

static void hear_warning(void *user, const char *sentence)
{
	struct heard *heard = user;

	heard->warnings++;
	snprintf(heard->warning, sizeof(heard->warning), "%s", sentence);
}

static bool hear_interrupt(void *user)
{
	struct heard *heard = user;

	return heard->interrupt;
}

int ask(struct fixture *f, unsigned layer, struct upkeep_request *request, struct heard *heard,
        struct upkeep_result *ret, struct err *err)
{
	const struct control_watch watch = {hear_started, hear_progress, hear_warning, hear_interrupt, heard};
	struct control_owner owner;
	int r;

	owner_find(f, layer, &owner);
	request->file = file_of(f, layer);
	r = control_upkeep(&owner, request, &watch, ret, err);
	control_owner_close(&owner);
	return r;
}

static void *asker_run(void *user)
{
	struct asker *asker = user;
	struct upkeep_request request = {.verb = UPKEEP_MERGE};
	struct upkeep_result result;

	asker->result = ask(asker->f, 1, &request, &asker->heard, &result, &asker->err);
	return NULL;
}

void asker_start(struct asker *asker, struct fixture *f)
{
	memset(asker, 0, sizeof(*asker));
	asker->f = f;
	f->fake.endless = true;
	assert_int_equal(pthread_create(&asker->thread, NULL, asker_run, asker), 0);
	while (!asker->heard.begun || !f->fake.calls)
		usleep(1000);
}

void wait_until_ended(struct fixture *f, int result)
{
	while (!f->fake.ended)
		usleep(1000);
	assert_int_equal(f->fake.ended - 1000, result);
}

int raw_client(struct fixture *f, const void *text, size_t length)
{
	char name[40];
	pid_t pid;
	int fd;

	snprintf(name, sizeof(name), "%d-0.disk", (int)getpid());
	fd = local_socket_connect(f->folder, name, geteuid(), &pid);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, text, length, MSG_NOSIGNAL), length);
	return fd;
}

void merge_line(struct fixture *f, const char *more, char *ret, size_t size)
{
	struct upkeep_file file = file_of(f, 1);

	snprintf(ret, size, "merge file=%llx:%llx%s\n", (unsigned long long)file.dev, (unsigned long long)file.ino, more);
}

void jobs_of(struct fixture *f, struct control_job ret[CONTROL_JOBS_MAX], int count)
{
	struct control_owner owner;
	struct err err = {.text = ""};

	owner_find(f, 0, &owner);
	assert_int_equal(control_jobs(&owner, ret, &err), count);
	control_owner_close(&owner);
}

int steer(struct fixture *f, enum control_steering how, uint64_t job, uint64_t rate)
{
	struct control_owner owner;
	struct err err;
	int r;

	owner_find(f, 0, &owner);
	r = control_steer(&owner, how, job, rate, &err);
	control_owner_close(&owner);
	return r;
}
