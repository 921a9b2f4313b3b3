/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests/bench.sh: what upkeep costs whoever uses the disk meanwhile, and how fast it is. One "key value" a line.
 *
 *   bench-upkeep load FOLDER MIB SECONDS   Random 4 KiB writes at full speed, FLUSHes beside them, each with its latency:
 *                                          while the leaf is switched to a child, while layers are merged, while nothing
 *                                          goes on, and on a raw file.
 *   bench-upkeep merge FOLDER MIB          A child that holds so much, merged into its empty parent, beside cp.
 *   bench-upkeep largest FILE [PARENT]     Makes a disk with all of its million blocks allocated.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/blk-file.h"
#include "tests/lib/largest.h"
#include "tests/lib/random.h"
#include "vhd/histogram.h"
#include "vhd/upkeep.h"
#include "vhd/vhd.h"

#define DEPTH 16u
#define REQUEST 4096u
#define CHUNK (1u << 20)
#define SWITCHES 20u
#define FLUSH_PAUSE_US 5000
#define MERGE_ROUNDS 3u
#define PATH_ROOM 4096

/* What goes on while a request is in flight. */
enum phase {
	PHASE_NONE, /* between the others; not reported */
	PHASE_SWITCH,
	PHASE_MERGE_MIDDLE,
	PHASE_MERGE_LEAF,
	PHASE_NOTHING, /* as long as the merge of the leaf took */
	PHASE_RAW,
	PHASES,
};

static const char *const phase_names[PHASES] = {"none", "switch", "merge_middle", "merge_leaf", "nothing", "raw"};

struct guest {
	struct blk *blk;
	uint64_t size;
	_Atomic enum phase phase;
	atomic_bool stop;
	pthread_t writer, flusher;
	struct histogram write_ns[PHASES], flush_ns[PHASES]; /* each of one thread, read when it has ended */
};

struct request {
	struct blk_req req;
	struct iovec iov;
	struct guest *guest;
	struct blk_queue *queue;
	struct rng *rng;
	unsigned *in_flight;
	enum phase phase;
	uint64_t start_ns;
};

static void must(int rc, const struct err *err)
{
	if (rc) {
		fprintf(stderr, "bench-upkeep: %s\n", err && err->text[0] ? err->text : strerror(-rc));
		exit(1);
	}
}

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
	nanosleep(&(struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)}, NULL);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* Incompressible, and no zeros, which an engine does not write. */
static void fill(uint8_t *bytes, size_t length, uint64_t seed)
{
	struct rng rng = rng_fork(seed, 1);

	for (size_t i = 0; i < length; i += 8) {
		uint64_t word = rng_next(&rng) | 1;

		memcpy(bytes + i, &word, sizeof(word));
	}
}

/* A request counts where it began; one that began between phases, where it ended: so none that a phase held up is lost. */
static enum phase phase_of(enum phase began, enum phase ended)
{
	return began == PHASE_NONE ? ended : began;
}

static void request_done(struct blk_req *req, int result);

static void request_submit(struct request *r)
{
	r->req.offset = rng_below(r->rng, r->guest->size / REQUEST) * REQUEST;
	r->phase = atomic_load(&r->guest->phase);
	r->start_ns = clock_ns();
	(*r->in_flight)++;
	blk_submit(r->queue, &r->req);
}

static void request_done(struct blk_req *req, int result)
{
	struct request *r = req->user;

	must(result, NULL);
	(*r->in_flight)--;
	histogram_add(&r->guest->write_ns[phase_of(r->phase, atomic_load(&r->guest->phase))], clock_ns() - r->start_ns);
	if (!atomic_load(&r->guest->stop))
		request_submit(r);
}

static void *writer_main(void *arg)
{
	struct guest *g = arg;
	struct rng rng = rng_fork(1, 0);
	struct request requests[DEPTH];
	struct blk_queue *queue;
	struct err err = {""};
	unsigned in_flight = 0;
	uint8_t *memory = aligned_alloc(REQUEST, (size_t)DEPTH * REQUEST);

	must(memory ? 0 : -ENOMEM, NULL);
	fill(memory, (size_t)DEPTH * REQUEST, 2);
	must(blk_queue_new(g->blk, NULL, &queue, &err), &err);
	for (unsigned i = 0; i < DEPTH; i++) {
		struct request *r = &requests[i];

		*r = (struct request){.guest = g, .queue = queue, .rng = &rng, .in_flight = &in_flight};
		r->iov = (struct iovec){memory + (size_t)i * REQUEST, REQUEST};
		r->req = (struct blk_req){
			.op = BLK_WRITE, .length = REQUEST, .iov = &r->iov, .iovcnt = 1, .done = request_done, .user = r};
		request_submit(r);
	}
	while (in_flight)
		must(blk_queue_poll(queue, 1, -1) < 0 ? -EIO : 0, NULL);
	blk_queue_free(queue);
	free(memory);
	return NULL;
}

static void *flusher_main(void *arg)
{
	struct guest *g = arg;
	struct blk_queue *queue;
	struct err err = {""};

	must(blk_queue_new(g->blk, NULL, &queue, &err), &err);
	while (!atomic_load(&g->stop)) {
		enum phase began = atomic_load(&g->phase);
		uint64_t start_ns = clock_ns();

		must(blk_flush(queue), NULL);
		histogram_add(&g->flush_ns[phase_of(began, atomic_load(&g->phase))], clock_ns() - start_ns);
		usleep(FLUSH_PAUSE_US);
	}
	blk_queue_free(queue);
	return NULL;
}

static void guest_start(struct guest *g, struct blk *blk, enum phase phase)
{
	struct blk_info info;

	blk_info(blk, &info);
	g->blk = blk;
	g->size = info.size;
	atomic_store(&g->stop, false);
	atomic_store(&g->phase, phase);
	must(-pthread_create(&g->writer, NULL, writer_main, g), NULL);
	must(-pthread_create(&g->flusher, NULL, flusher_main, g), NULL);
}

static void guest_stop(struct guest *g)
{
	atomic_store(&g->stop, true);
	pthread_join(g->writer, NULL);
	pthread_join(g->flusher, NULL);
}

static void phase_begin(struct guest *g, enum phase phase)
{
	atomic_store(&g->phase, phase);
}

static void phase_end(struct guest *g)
{
	atomic_store(&g->phase, PHASE_NONE);
}

/* Writes the whole disk in order, and makes it durable. */
static void disk_fill(struct blk *blk, uint64_t seed)
{
	uint8_t *memory = aligned_alloc(4096, CHUNK);
	struct blk_queue *queue;
	struct blk_info info;
	struct err err = {""};

	must(memory ? 0 : -ENOMEM, NULL);
	blk_info(blk, &info);
	must(blk_queue_new(blk, NULL, &queue, &err), &err);
	for (uint64_t at = 0; at < info.size; at += CHUNK) {
		fill(memory, CHUNK, seed + at);
		must(blk_pwrite(queue, memory, CHUNK, at), NULL);
	}
	must(blk_flush(queue), NULL);
	blk_queue_free(queue);
	free(memory);
}

/* With O_DIRECT where the file system can. */
static struct vhd *disk_open(const char *path)
{
	struct vhd_open_options options = {.flags = VHD_OPEN_WRITE | VHD_OPEN_DIRECT};
	struct err err = {""};
	struct vhd *vhd;
	int rc = vhd_open(path, &options, &vhd, &err);

	if (rc) {
		options.flags = VHD_OPEN_WRITE;
		rc = vhd_open(path, &options, &vhd, &err);
	}
	must(rc, &err);
	return vhd;
}

static void disk_new(const char *path, const char *parent, uint64_t size, bool filled)
{
	struct vhd_create_options options = {.parent = parent, .size_bytes = parent ? 0 : size, .overwrite = true};
	struct err err = {""};
	struct vhd *vhd;

	must(vhd_create(path, &options, &err), &err);
	if (!filled)
		return;
	vhd = disk_open(path);
	disk_fill(vhd_blk(vhd), size);
	must(vhd_close(vhd, &err), &err);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void switch_children(struct vhd *vhd, struct guest *g)
{
	uint64_t exchange_ns[SWITCHES], call_ns[SWITCHES];

	for (unsigned i = 0; i < SWITCHES; i++) {
		struct vhd_child *child;
		struct err err = {""};
		uint64_t start_ns;
		char name[32];

		snprintf(name, sizeof(name), "frozen-%u.vhd", i);
		must(vhd_child_prepare(vhd, name, &child, &err), &err);
		phase_begin(g, PHASE_SWITCH);
		start_ns = clock_ns();
		must(vhd_switch_child(vhd, child, &err), &err);
		call_ns[i] = clock_ns() - start_ns;
		exchange_ns[i] = vhd->image->switch_ns;
		usleep(20000);
		phase_end(g);
	}
	qsort(exchange_ns, SWITCHES, sizeof(uint64_t), by_size);
	qsort(call_ns, SWITCHES, sizeof(uint64_t), by_size);
	printf("exchange_p50_ms %.4f\nexchange_max_ms %.4f\n", ms(exchange_ns[SWITCHES / 2]), ms(exchange_ns[SWITCHES - 1]));
	printf("switch_p50_ms %.2f\nswitch_max_ms %.2f\n", ms(call_ns[SWITCHES / 2]), ms(call_ns[SWITCHES - 1]));
}

/* Returns how long it took. */
static uint64_t merge(struct vhd *vhd, struct guest *g, enum phase phase, unsigned layer, unsigned into)
{
	struct vhd_merge_options options = {.layer = layer, .into = into, .rename = layer == 0};
	struct vhd_merge_result result;
	struct vhd_job_status status;
	struct err err = {""};
	uint64_t start_ns;

	must(vhd_job_new(&options.job, &err), &err);
	phase_begin(g, phase);
	start_ns = clock_ns();
	must(vhd_merge(vhd, &options, &result, &err), &err);
	start_ns = clock_ns() - start_ns;
	phase_end(g);
	vhd_job_status(options.job, &status);
	vhd_job_free(options.job);
	printf("%s_seconds %.3f\n%s_held_mib %.0f\n%s_merged_mib %.0f\n", phase_names[phase], (double)start_ns / 1e9,
	       phase_names[phase], (double)status.total_bytes / CHUNK, phase_names[phase],
	       (double)result.merged_bytes / CHUNK);
	return start_ns;
}

static void report(const struct guest *g)
{
	for (enum phase p = PHASE_SWITCH; p < PHASES; p++) {
		const struct histogram *each[] = {&g->write_ns[p], &g->flush_ns[p]};
		static const char *const names[] = {"write", "flush"};

		for (unsigned i = 0; i < 2; i++)
			printf("%s_%s_count %" PRIu64 "\n%s_%s_p50_ms %.3f\n%s_%s_p999_ms %.3f\n%s_%s_max_ms %.3f\n", phase_names[p],
			       names[i], each[i]->count, phase_names[p], names[i], ms(histogram_percentile(each[i], 0.5)),
			       phase_names[p], names[i], ms(histogram_percentile(each[i], 0.999)), phase_names[p], names[i],
			       ms(each[i]->max));
	}
}

static void raw_load(const char *path, uint64_t size, struct guest *g, uint64_t ns)
{
	struct err err = {""};
	struct blk *blk;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd < 0 || ftruncate(fd, (off_t)size) < 0 ? -errno : 0, NULL);
	close(fd);
	if (blk_file_open(path, BLK_FILE_WRITE | BLK_FILE_DIRECT, &blk, &err))
		must(blk_file_open(path, BLK_FILE_WRITE, &blk, &err), &err);
	disk_fill(blk, size);
	guest_start(g, blk, PHASE_RAW);
	sleep_ns(ns);
	guest_stop(g);
	must(blk_close(blk, &err), &err);
	unlink(path);
}

static int load(const char *dir, uint64_t size, double seconds)
{
	struct guest *g = calloc(1, sizeof(*g));
	char path[PATH_ROOM], raw[PATH_ROOM];
	struct vhd_check_result checked;
	struct vhd_child *child;
	struct err err = {""};
	struct vhd *vhd;
	uint64_t ns;

	must(g ? 0 : -ENOMEM, NULL);
	snprintf(path, sizeof(path), "%s/load.vhd", dir);
	snprintf(raw, sizeof(raw), "%s/load.raw", dir);
	disk_new(path, NULL, size, true);
	vhd = disk_open(path);
	must(vhd_child_prepare(vhd, "base.vhd", &child, &err), &err);
	must(vhd_switch_child(vhd, child, &err), &err);
	guest_start(g, vhd_blk(vhd), PHASE_NONE);
	sleep_ns((uint64_t)(seconds * 1e9));
	ns = merge(vhd, g, PHASE_MERGE_LEAF, 0, 1);
	if (ns < (uint64_t)(seconds * 1e9))
		ns = (uint64_t)(seconds * 1e9);
	usleep(100000);
	phase_begin(g, PHASE_NOTHING);
	sleep_ns(ns);
	phase_end(g);
	switch_children(vhd, g);
	merge(vhd, g, PHASE_MERGE_MIDDLE, 1, vhd_layer_count(vhd) - 1);
	guest_stop(g);
	must(vhd_close(vhd, &err), &err);
	must(vhd_check(path, NULL, &checked, &err), &err);
	must(checked.warnings + checked.damages ? err_set(&err, -EIO, "%s: not sound afterwards", path) : 0, &err);
	raw_load(raw, size, g, ns);
	report(g);
	free(g);
	return 0;
}

/* What the kernel counts as written to disks for this process, by its threads and for them. */
static uint64_t io_bytes(const char *key)
{
	FILE *f = fopen("/proc/self/io", "re");
	char name[64];
	uint64_t value, found = 0;

	while (f && fscanf(f, "%63[^:]: %" SCNu64 "\n", name, &value) == 2)
		if (!strcmp(name, key))
			found = value;
	if (f)
		fclose(f);
	return found;
}

/* Leaves nothing of a file in the page cache, where it has one. */
static void cache_drop(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	must(fd < 0 || fdatasync(fd) < 0 ? -errno : 0, NULL);
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

static void cache_fill(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *memory = malloc(CHUNK);

	must(fd < 0 || !memory ? -EIO : 0, NULL);
	while (read(fd, memory, CHUNK) > 0)
		;
	free(memory);
	close(fd);
}

/* cp, durable. */
static uint64_t copy(const char *from, const char *to)
{
	uint64_t start_ns = clock_ns();
	int status, fd;
	pid_t pid = fork();

	if (pid == 0) {
		execlp("cp", "cp", "--reflink=never", "--sparse=never", from, to, (char *)NULL);
		_exit(127);
	}
	must(pid < 0 || waitpid(pid, &status, 0) < 0 || status ? -EIO : 0, NULL);
	fd = open(to, O_WRONLY | O_CLOEXEC);
	must(fd < 0 || fsync(fd) < 0 ? -errno : 0, NULL);
	close(fd);
	return clock_ns() - start_ns;
}

static void merge_beside_cp(const char *dir, uint64_t size, bool cold)
{
	uint64_t merge_ns[MERGE_ROUNDS], cp_ns[MERGE_ROUNDS], written = 0, merged = 0;
	char base[PATH_ROOM], child[PATH_ROOM], copied[PATH_ROOM];
	const char *name = cold ? "cold" : "warm";

	snprintf(base, sizeof(base), "%s/merge-base.vhd", dir);
	snprintf(child, sizeof(child), "%s/merge-child.vhd", dir);
	snprintf(copied, sizeof(copied), "%s/merge-copy", dir);
	for (unsigned i = 0; i < MERGE_ROUNDS; i++) {
		struct vhd_merge_options options = {.idle = true};
		struct vhd_merge_result result;
		struct err err = {""};
		uint64_t start_ns, before;
		struct vhd *vhd;

		disk_new(base, NULL, size, false);
		disk_new(child, base, size, true);
		(cold ? cache_drop : cache_fill)(child);
		cp_ns[i] = copy(child, copied);
		unlink(copied);
		(cold ? cache_drop : cache_fill)(child);
		before = io_bytes("write_bytes");
		start_ns = clock_ns();
		must(vhd_open(child, &(struct vhd_open_options){.flags = VHD_OPEN_WRITE}, &vhd, &err), &err);
		must(vhd_merge(vhd, &options, &result, &err), &err);
		must(vhd_close(vhd, &err), &err);
		merge_ns[i] = clock_ns() - start_ns;
		written += io_bytes("write_bytes") - before;
		merged += result.merged_bytes;
		unlink(base);
	}
	qsort(merge_ns, MERGE_ROUNDS, sizeof(uint64_t), by_size);
	qsort(cp_ns, MERGE_ROUNDS, sizeof(uint64_t), by_size);
	printf("merge_%s_mb_s %.0f\ncp_%s_mb_s %.0f\n", name, (double)size * 1e3 / (double)merge_ns[MERGE_ROUNDS / 2], name,
	       (double)size * 1e3 / (double)cp_ns[MERGE_ROUNDS / 2]);
	/* Kernels count nothing where there is no disk. */
	if (written)
		printf("amplification_%s %.4f\n", name, (double)written / (double)merged);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	if (end == text || *end || n == 0 || n > 1 << 20) {
		fprintf(stderr, "bench-upkeep: '%s' is no number from 1 on\n", text);
		exit(2);
	}
	return n;
}

int main(int argc, char **argv)
{
	struct err err = {""};

	setlinebuf(stdout);
	if (argc == 5 && !strcmp(argv[1], "load"))
		return load(argv[2], number(argv[3]) << 20, strtod(argv[4], NULL));
	if (argc == 4 && !strcmp(argv[1], "merge")) {
		merge_beside_cp(argv[2], number(argv[3]) << 20, true);
		merge_beside_cp(argv[2], number(argv[3]) << 20, false);
		return 0;
	}
	if ((argc == 3 || argc == 4) && !strcmp(argv[1], "largest")) {
		must(largest_create(argv[2], argv[3], &err), &err);
		return 0;
	}
	fprintf(stderr, "usage: bench-upkeep load FOLDER MIB SECONDS | merge FOLDER MIB | largest FILE [PARENT]\n");
	return 2;
}
