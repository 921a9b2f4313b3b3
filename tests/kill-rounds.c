/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests/e2e/kill-rounds.sh.
 *
 *   kill-rounds load SEED ROUNDS IMAGE   A child process writes to the image, flushes, and only then reports over a pipe
 *                                        what it has flushed; it is killed at a random moment. Nothing that it reported
 *                                        may be missing, and nothing be there that was never written.
 *   kill-rounds after MICROSECONDS COMMAND...   Runs a command and kills it after that time. 137: it was killed; else
 *                                        what it exits with.
 *   kill-rounds either IMAGE OLD NEW     Each sector of the disk is that of one raw file or of the other.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "vhd/vhd.h"

#define BATCH 12u        /* requests in flight together, then a flush */
#define LIFE_MAX_US 40000u

struct load {
	const char *path;
	uint64_t size, seed; /* bytes; of this round */
};

/* What the batch of this number asks for: the same in the process that does it and in the one that judges. */
static void batch_make(const struct load *load, uint32_t number, struct model_event *ret)
{
	struct rng rng = rng_fork(load->seed, number);
	uint64_t part = load->size / BATCH / 512 * 512;

	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t length = 512 * (1 + rng_below(&rng, rng_percent(&rng, 80) ? 16 : part / 512));
		unsigned dice = (unsigned)rng_below(&rng, 100);

		ret[i] = (struct model_event){
			.kind = MODEL_SUBMIT,
			.id = number * BATCH + i + 1,
			.op = dice < 80 ? BLK_WRITE : dice < 90 ? BLK_DISCARD : BLK_WRITE_ZEROES,
			.offset = i * part + rng_below(&rng, (part - length) / 512 + 1) * 512,
			.length = length,
		};
	}
}

static void request_done(struct blk_req *req, int result)
{
	if (result) {
		fprintf(stderr, "a request fails: %s\n", strerror(-result));
		_exit(3);
	}
	(*(unsigned *)req->user)++;
}

/* Never returns. */
static void load_run(const struct load *load, int report)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct err err = {""};
	struct blk_queue *queue;
	uint8_t *memory = malloc(load->size);
	struct vhd *vhd;

	if (!memory || vhd_open(load->path, &options, &vhd, &err) ||
	    blk_queue_new(vhd_blk(vhd), NULL, &queue, &err)) {
		fprintf(stderr, "%s\n", err.text);
		_exit(3);
	}
	for (uint32_t number = 0;; number++) {
		struct model_event batch[BATCH];
		struct blk_req req[BATCH];
		struct iovec iov[BATCH];
		unsigned done = 0;

		batch_make(load, number, batch);
		for (unsigned i = 0; i < BATCH; i++) {
			const struct model_event *e = &batch[i];

			req[i] = (struct blk_req){.op = e->op, .offset = e->offset, .length = e->length, .done = request_done,
			                          .user = &done};
			if (e->op == BLK_WRITE) {
				for (uint64_t s = 0; s < e->length / 512; s++)
					model_fill(e->id, e->offset / 512 + s, memory + e->offset + s * 512);
				iov[i] = (struct iovec){memory + e->offset, e->length};
				req[i].iov = &iov[i];
				req[i].iovcnt = 1;
			}
			blk_submit(queue, &req[i]);
		}
		while (done < BATCH)
			if (blk_queue_poll(queue, 1, -1) < 0)
				_exit(3);
		if (blk_flush(queue) || write(report, &number, sizeof(number)) != sizeof(number))
			_exit(3);
	}
}

static void model_batch(struct model *model, const struct load *load, uint32_t number, bool flushed)
{
	struct model_event batch[BATCH], flush = {.kind = MODEL_SUBMIT, .id = 0, .op = BLK_FLUSH};

	batch_make(load, number, batch);
	for (unsigned i = 0; i < BATCH; i++) {
		struct model_event done = {.kind = MODEL_DONE, .id = batch[i].id};

		model_note(model, &batch[i]);
		if (flushed)
			model_note(model, &done);
	}
	if (!flushed)
		return;
	/* Ids of their own, above all others of the round. */
	flush.id = (number + 1) * BATCH + 1;
	model_note(model, &flush);
	flush.kind = MODEL_DONE;
	model_note(model, &flush);
}

static int content_read(const char *path, uint8_t **ret, uint64_t *ret_size, struct err *err)
{
	struct blk_queue *queue;
	struct blk_info info;
	struct vhd *vhd;
	int rc = vhd_open(path, NULL, &vhd, err);

	if (rc)
		return rc;
	blk_info(vhd_blk(vhd), &info);
	*ret_size = info.size;
	*ret = malloc(info.size);
	rc = *ret ? blk_queue_new(vhd_blk(vhd), NULL, &queue, err) : -ENOMEM;
	if (rc == 0) {
		rc = blk_pread(queue, *ret, info.size, 0);
		blk_queue_free(queue);
	}
	vhd_close(vhd, NULL);
	return rc ? err_set(err, rc, "%s: cannot be read: %s", path, strerror(-rc)) : 0;
}

static void defect_found(void *user, const struct vhd_defect *defect)
{
	(void)user;
	if (defect->severity == VHD_DAMAGE)
		fprintf(stderr, "%s: %s at %" PRIu64 ": %s\n", defect->path, defect->code, defect->offset, defect->sentence);
}

/* Returns the number of batches that were flushed, or -1. */
static int64_t round_run(const struct load *load, struct rng *rng, uint8_t **content)
{
	const struct vhd_check_options check = {.defect = defect_found};
	struct vhd_check_result result;
	struct err err = {""};
	uint8_t *before = *content;
	struct model model;
	uint32_t flushed = 0, number;
	int report[2], status, rc;
	uint64_t size;
	pid_t pid;

	if (pipe(report) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		close(report[0]);
		load_run(load, report[1]);
	}
	close(report[1]);
	usleep((useconds_t)rng_below(rng, LIFE_MAX_US));
	kill(pid, SIGKILL);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFSIGNALED(status)) {
		fprintf(stderr, "the load has ended by itself\n");
		return -1;
	}
	model_init(&model, before, load->size);
	while (read(report[0], &number, sizeof(number)) == sizeof(number)) {
		model_batch(&model, load, number, true);
		flushed = number + 1;
	}
	close(report[0]);
	/* What it was at: the next batch, and, when the report of its flush was not written yet, the one after that. */
	model_batch(&model, load, flushed, false);
	model_batch(&model, load, flushed + 1, false);

	rc = content_read(load->path, content, &size, &err);
	if (rc == 0)
		rc = model_check(&model, *content, &err);
	if (rc == 0)
		rc = vhd_check(load->path, &check, &result, &err);
	model_done(&model);
	free(before);
	if (rc)
		fprintf(stderr, "%s: seed %" PRIu64 ", %u batches flushed: %d: %s\n", load->path, load->seed, flushed, rc,
		        err.text);
	return rc ? -1 : (int64_t)flushed;
}

static int load(uint64_t seed, unsigned rounds, const char *path)
{
	struct rng rng = rng_fork(seed, 0);
	struct load load = {.path = path};
	struct err err = {""};
	uint64_t flushed = 0;
	uint8_t *content;

	if (content_read(path, &content, &load.size, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	for (unsigned i = 0; i < rounds; i++) {
		int64_t n;

		load.seed = seed * 1000 + i;
		n = round_run(&load, &rng, &content);
		if (n < 0)
			return 1;
		flushed += (uint64_t)n;
	}
	free(content);
	printf("%" PRIu64 "\n", flushed);
	return 0;
}

static int after(useconds_t us, char **command)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	usleep(us);
	kill(pid, SIGKILL);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return 127;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int either(const char *path, const char *old, const char *new)
{
	uint8_t *content, was[512], is[512];
	FILE *a = fopen(old, "re"), *b = fopen(new, "re");
	struct err err = {""};
	uint64_t size, s;

	if (!a || !b || content_read(path, &content, &size, &err)) {
		fprintf(stderr, "%s\n", err.text[0] ? err.text : strerror(errno));
		return 1;
	}
	for (s = 0; s < size / 512; s++) {
		if (fread(was, sizeof(was), 1, a) != 1 || fread(is, sizeof(is), 1, b) != 1) {
			fprintf(stderr, "%s: longer than what it is compared with\n", path);
			return 1;
		}
		if (memcmp(content + s * 512, was, 512) && memcmp(content + s * 512, is, 512)) {
			fprintf(stderr, "%s: sector %" PRIu64 " is neither what it was nor what was written\n", path, s);
			return 1;
		}
	}
	free(content);
	fclose(a);
	fclose(b);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "load") == 0)
		return load(strtoull(argv[2], NULL, 10), (unsigned)strtoul(argv[3], NULL, 10), argv[4]);
	if (argc > 3 && strcmp(argv[1], "after") == 0)
		return after((useconds_t)strtoul(argv[2], NULL, 10), argv + 3);
	if (argc == 5 && strcmp(argv[1], "either") == 0)
		return either(argv[2], argv[3], argv[4]);
	fprintf(stderr, "usage: kill-rounds load SEED ROUNDS IMAGE | after MICROSECONDS COMMAND... | either IMAGE OLD NEW\n");
	return 2;
}
