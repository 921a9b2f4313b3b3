/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/local-socket.h"
#include "tests/lib/control.h"
#include "tests/lib/temp-dir.h"

static void the_owner_is_found_by_each_file_of_its_chain(void **state)
{
	struct fixture *f = *state;
	struct control_owner owners[CONTROL_OWNERS_MAX], owner;
	struct upkeep_file other;

	for (unsigned i = 0; i < LAYERS; i++) {
		owner_find(f, i, &owner);
		assert_int_equal(owner.layer, i);
		assert_int_equal(owner.layer_count, LAYERS);
		assert_int_equal(owner.pid, getpid());
		assert_true(owner.writable);
		assert_string_equal(owner.program, "a test");
		assert_string_equal(owner.path, f->fake.paths[0]);
		control_owner_close(&owner);
	}
	assert_int_equal(upkeep_file_find(f->fake.folder, &other), 0);
	assert_int_equal(control_find(other, f->folder, owners), 0);
	assert_int_equal(upkeep_file_find("/nowhere", &other), -ENOENT);
	assert_int_equal(control_find(other, f->folder, owners), 0);
}

static void a_merge_is_carried_with_its_options_result_and_warnings(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_MERGE, .force = true, .into = file_of(f, 2), .rate = 77};
	struct upkeep_result result;
	struct heard heard = {0};
	struct err err = {.text = ""};

	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), 0);
	assert_int_equal(f->fake.merge.layer, 0);
	assert_int_equal(f->fake.merge.into, 2);
	assert_true(f->fake.merge.force);
	assert_false(f->fake.merge.keep);
	assert_true(result.removed);
	/* In use under the leaf's name: it stays. */
	assert_true(f->fake.merge.rename);
	assert_string_equal(result.path, f->fake.paths[0]);
	assert_int_equal(result.merged_layers, 2);
	assert_int_equal(result.merge.merged_bytes, 11);
	assert_int_equal(result.merge.written_bytes, 22);
	assert_int_equal(heard.job, 1);
	assert_int_equal(heard.warnings, 2);
	assert_string_equal(heard.warning, "second?warning"); /* no line feed reaches a terminal */
	request = (struct upkeep_request){.verb = UPKEEP_MERGE, .keep = true};
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EINVAL);
	assert_int_equal(ask(f, 1, &request, &heard, &result, &err), 0);
	assert_int_equal(f->fake.merge.layer, 1);
	assert_int_equal(f->fake.merge.into, 2);
	assert_true(f->fake.merge.keep);
	assert_false(f->fake.merge.rename || result.removed);
	assert_string_equal(result.path, f->fake.paths[2]);
	assert_int_equal(heard.job, 3);
}

static void what_a_merge_cannot_do_is_refused_before_it_begins(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_MERGE};
	struct upkeep_result result;
	struct heard heard = {0};
	struct err err;

	assert_int_equal(ask(f, 2, &request, &heard, &result, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no parent"));
	request = (struct upkeep_request){.verb = UPKEEP_MERGE, .into = file_of(f, 0)};
	assert_int_equal(ask(f, 1, &request, &heard, &result, &err), -EINVAL);
	request = (struct upkeep_request){.verb = UPKEEP_MERGE, .rename = true};
	assert_int_equal(ask(f, 1, &request, &heard, &result, &err), -EINVAL);
	assert_int_equal(f->fake.calls, 0);
}

static void a_snapshot_has_a_plain_name(void **state)
{
	static const char *const wrong[] = {"", ".", "..", "a/b", "/etc/passwd"};
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_SNAPSHOT, .name = "frozen layer.vhd"};
	struct upkeep_result result;
	struct heard heard = {0};
	struct err err;

	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), 0);
	assert_string_equal(f->fake.frozen, "frozen layer.vhd");
	assert_string_equal(result.path, f->fake.paths[1]);
	assert_int_equal(result.uuid[0], 101);
	assert_int_equal(result.leaf_uuid[0], 100);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		strcpy(request.name, wrong[i]);
		assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EINVAL);
	}
	assert_int_equal(f->fake.calls, 1);
}

static void a_disk_in_use_grows_and_does_not_shrink(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_RESIZE, .how = UPKEEP_SIZE_GROW, .bytes = 4096};
	struct upkeep_result result;
	struct heard heard = {0};
	struct err err;

	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), 0);
	assert_int_equal(f->fake.resized, (1 << 20) + 4096);
	assert_int_equal(result.old_size_bytes, 1 << 20);
	assert_int_equal(result.size_bytes, (1 << 20) + 4096);
	request = (struct upkeep_request){.verb = UPKEEP_RESIZE, .how = UPKEEP_SIZE_SHRINK, .bytes = 4096, .force = true};
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EBUSY);
	request = (struct upkeep_request){.verb = UPKEEP_RESIZE, .how = UPKEEP_SIZE_SHRINK, .bytes = UINT64_C(1) << 50};
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EINVAL);
	request = (struct upkeep_request){.verb = UPKEEP_RESIZE, .how = UPKEEP_SIZE_GROW, .bytes = UINT64_MAX};
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EINVAL);
	request = (struct upkeep_request){.verb = UPKEEP_RESIZE, .bytes = 1000};
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EINVAL);
	assert_int_equal(f->fake.calls, 1);
}

static void a_parent_in_use_is_not_changed(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_RESIZE, .bytes = 2 << 20};
	struct upkeep_result result;
	struct heard heard = {0};
	struct err err;

	assert_int_equal(ask(f, 1, &request, &heard, &result, &err), -EBUSY);
	assert_non_null(strstr(err.text, f->fake.paths[0]));
	assert_non_null(strstr(err.text, f->fake.paths[1]));
	assert_int_equal(f->fake.calls, 0);
}

static void a_verdict_is_told_with_its_sentence_and_figures(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_RESIZE, .bytes = 2 << 20};
	struct upkeep_result result;
	struct heard heard = {0};
	struct err err;

	f->fake.result = VHD_E_WOULD_LOSE;
	f->fake.sentence = "data\x1b[2J would be lost";
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), VHD_E_WOULD_LOSE);
	assert_string_equal(err.text, "data?[2J would be lost");
	assert_int_equal(result.resize.cut_bytes, 4711);
	f->fake.result = -ENOSPC;
	request = (struct upkeep_request){.verb = UPKEEP_COMPACT, .keep_zeros = true};
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -ENOSPC);
	assert_true(f->fake.compact.keep_zeros);
	f->fake.result = 0;
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), 0);
	assert_int_equal(result.compact.before_bytes, 9);
	assert_int_equal(result.compact.freed_blocks, 7);
}

static void one_job_at_a_time(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_SNAPSHOT, .name = "x"};
	struct upkeep_result result;
	struct heard heard = {0};
	struct asker asker;
	struct err err;

	asker_start(&asker, f);
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EBUSY);
	assert_non_null(strstr(err.text, "merge"));
	asker.heard.interrupt = true;
	pthread_join(asker.thread, NULL);
	f->fake.endless = false;
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), 0);
}

static void an_interrupted_client_cancels_and_hears_of_it(void **state)
{
	struct fixture *f = *state;
	struct asker asker;

	asker_start(&asker, f);
	usleep(500000);
	asker.heard.interrupt = true;
	pthread_join(asker.thread, NULL);
	assert_int_equal(asker.result, -ECANCELED);
	assert_string_equal(asker.err.text, "cancelled");
	assert_in_range(asker.heard.progresses, 1, 10); /* some times a second, and not as often as it can be sent */
	assert_true(asker.heard.total == JOB_TOTAL);
	assert_true(asker.heard.done > 0);
	wait_until_ended(f, -ECANCELED);
}

static void a_client_that_goes_away_cancels_its_job(void **state)
{
	struct fixture *f = *state;
	char line[200];
	int fd;

	f->fake.endless = true;
	merge_line(f, "", line, sizeof(line));
	fd = raw_client(f, line, strlen(line));
	while (!f->fake.calls)
		usleep(1000);
	usleep(100000);
	assert_int_equal(f->fake.ended, 0);
	close(fd);
	wait_until_ended(f, -ECANCELED);
}

static void a_killed_client_cancels_its_job(void **state)
{
	struct fixture *f = *state;
	char line[200];
	pid_t child;
	int fd;

	f->fake.endless = true;
	merge_line(f, "", line, sizeof(line));
	fd = raw_client(f, "", 0);
	child = fork();
	if (child == 0) {
		(void)!write(fd, line, strlen(line));
		pause();
		_exit(0);
	}
	close(fd);
	while (!f->fake.calls)
		usleep(1000);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	wait_until_ended(f, -ECANCELED);
}

static void a_detached_job_goes_on_and_is_listed_and_cancelled(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_COMPACT, .file = file_of(f, 0)};
	struct control_job jobs[CONTROL_JOBS_MAX];
	struct control_owner owner;
	uint64_t job = 0;
	struct err err;

	jobs_of(f, jobs, 0);
	f->fake.endless = true;
	owner_find(f, 0, &owner);
	assert_int_equal(control_upkeep_detach(&owner, &request, &job, &err), 0);
	control_owner_close(&owner);
	assert_int_equal(job, 1);
	usleep(300000);
	assert_int_equal(f->fake.ended, 0);
	jobs_of(f, jobs, 1);
	assert_int_equal(jobs[0].id, 1);
	assert_int_equal(jobs[0].verb, UPKEEP_COMPACT);
	assert_string_equal(jobs[0].state, "running");
	assert_false(jobs[0].ended);
	assert_true(jobs[0].total_bytes == JOB_TOTAL);
	assert_int_equal(steer(f, CONTROL_CANCEL, 2, 0), -ESRCH);
	assert_int_equal(steer(f, CONTROL_CANCEL, 1, 0), 0);
	wait_until_ended(f, -ECANCELED);
	do
		jobs_of(f, jobs, 1);
	while (!jobs[0].ended);
	assert_string_equal(jobs[0].state, "cancelled");
	assert_int_equal(steer(f, CONTROL_CANCEL, 0, 0), -ESRCH);
	f->fake.endless = false;
	f->fake.result = -EIO;
	f->fake.sentence = "it broke";
	owner_find(f, 0, &owner);
	assert_int_equal(control_upkeep_detach(&owner, &request, &job, &err), 0);
	control_owner_close(&owner);
	assert_int_equal(job, 2);
	do {
		owner_find(f, 0, &owner);
		assert_in_range(control_jobs(&owner, jobs, &err), 1, 2);
		control_owner_close(&owner);
	} while (jobs[0].id != 2);
	assert_string_equal(jobs[0].state, "failed");
	assert_string_equal(jobs[0].err.text, "it broke");
}

static void a_job_is_paused_slowed_and_resumed_by_others(void **state)
{
	struct fixture *f = *state;
	struct control_job jobs[CONTROL_JOBS_MAX];
	struct asker asker;
	uint64_t done;

	asker_start(&asker, f);
	assert_int_equal(steer(f, CONTROL_PAUSE, 0, 0), 0);
	jobs_of(f, jobs, 1);
	assert_string_equal(jobs[0].state, "paused");
	usleep(50000);
	jobs_of(f, jobs, 1);
	done = jobs[0].done_bytes;
	usleep(400000);
	jobs_of(f, jobs, 1);
	assert_true(jobs[0].done_bytes == done);
	assert_true(asker.heard.paused);
	assert_int_equal(steer(f, CONTROL_RATE, 0, 12345), 0);
	assert_int_equal(steer(f, CONTROL_RESUME, 1, 0), 0);
	usleep(500000);
	jobs_of(f, jobs, 1);
	assert_string_equal(jobs[0].state, "running");
	assert_int_equal(jobs[0].rate, 12345);
	/* About 6,000 at that rate; unlimited it would be some hundred thousand. */
	assert_true(jobs[0].done_bytes > done);
	assert_true(jobs[0].done_bytes < done + 60000);
	assert_int_equal(steer(f, CONTROL_CANCEL, 0, 0), 0);
	pthread_join(asker.thread, NULL);
	assert_int_equal(asker.result, -ECANCELED);
}

static void the_end_of_the_server_cancels_waits_and_tells(void **state)
{
	struct fixture *f = *state;
	struct asker asker;
	struct control_owner owners[CONTROL_OWNERS_MAX];

	asker_start(&asker, f);
	assert_int_equal(steer(f, CONTROL_PAUSE, 0, 0), 0);
	control_server_free(f->server);
	f->server = NULL;
	assert_int_equal(f->fake.ended - 1000, -ECANCELED);
	pthread_join(asker.thread, NULL);
	assert_int_equal(asker.result, -ECANCELED);
	assert_int_equal(control_find(file_of(f, 0), f->folder, owners), 0);
}

static void a_disk_open_for_reading_is_found_and_refuses(void **state)
{
	struct fixture *f = *state;
	struct upkeep_request request = {.verb = UPKEEP_COMPACT};
	struct upkeep_result result;
	struct heard heard = {0};
	struct err err;

	control_server_free(f->server);
	f->server = server_start(&f->fake, f->folder, false);
	assert_int_equal(ask(f, 0, &request, &heard, &result, &err), -EROFS);
	assert_non_null(strstr(err.text, "reading only"));
	assert_int_equal(f->fake.calls, 0);
}

static void several_disks_of_one_process_and_what_a_dead_one_left(void **state)
{
	struct fixture *f = *state;
	struct control_owner owners[CONTROL_OWNERS_MAX];
	static struct fake other;
	struct control_server *second;
	char stale[40];
	pid_t child = fork();
	int fd;

	if (child == 0)
		_exit(0);
	waitpid(child, NULL, 0);
	snprintf(stale, sizeof(stale), "%d-0.disk", (int)child);
	fd = local_socket_listen(f->folder, stale, 1);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(control_find(file_of(f, 0), f->folder, owners), 1);
	control_owner_close(&owners[0]);
	fake_make(&other);
	strcpy(other.paths[2], f->fake.paths[2]); /* a parent that they share */
	second = server_start(&other, f->folder, true);
	assert_int_equal(faccessat(f->folder, stale, F_OK, 0), -1);
	assert_int_equal(control_find(file_of(f, 0), f->folder, owners), 1);
	control_owner_close(&owners[0]);
	assert_int_equal(control_find(file_of(f, 2), f->folder, owners), 2);
	control_owner_close(&owners[0]);
	control_owner_close(&owners[1]);
	control_server_free(second);
	temp_dir_free(other.folder);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, control_fixture_make, control_fixture_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(the_owner_is_found_by_each_file_of_its_chain),
	        CASE(a_merge_is_carried_with_its_options_result_and_warnings),
	        CASE(what_a_merge_cannot_do_is_refused_before_it_begins),
	        CASE(a_snapshot_has_a_plain_name),
	        CASE(a_disk_in_use_grows_and_does_not_shrink),
	        CASE(a_parent_in_use_is_not_changed),
	        CASE(a_verdict_is_told_with_its_sentence_and_figures),
	        CASE(one_job_at_a_time),
	        CASE(an_interrupted_client_cancels_and_hears_of_it),
	        CASE(a_client_that_goes_away_cancels_its_job),
	        CASE(a_killed_client_cancels_its_job),
	        CASE(a_detached_job_goes_on_and_is_listed_and_cancelled),
	        CASE(a_job_is_paused_slowed_and_resumed_by_others),
	        CASE(the_end_of_the_server_cancels_waits_and_tells),
	        CASE(a_disk_open_for_reading_is_found_and_refuses),
	        CASE(several_disks_of_one_process_and_what_a_dead_one_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
