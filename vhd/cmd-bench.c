/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "common/size.h"
#include "vhd/cli.h"
#include "vhd/load.h"

enum {
	KEY_OP = 256,
	KEY_BS,
	KEY_DEPTH,
	KEY_COUNT,
	KEY_RUNTIME,
	KEY_STRIDE,
	KEY_SIZE,
	KEY_THREADS,
	KEY_FLUSH_EVERY,
	KEY_SEED,
};

static const struct cli_option options[] = {
        {KEY_OP, "op", "OP", "read, write, randread or randwrite; writing destroys what FILE holds"},
        {KEY_BS, "bs", "SIZE", "bytes a request (default 4K)"},
        {KEY_DEPTH, "depth", "N", "requests in flight, a thread (default 32)"},
        {KEY_COUNT, "count", "N", "end after N requests of all threads together"},
        {KEY_RUNTIME, "runtime", "SECONDS", "end after so long"},
        {KEY_STRIDE, "stride", "SIZE", "from one request's offset to the next; wraps at the size (default: --bs)"},
        {KEY_SIZE, "size", "SIZE", "use only the first SIZE of the disk"},
        {KEY_THREADS, "threads", "N", "threads, each with a queue of its own (default 1)"},
        {KEY_FLUSH_EVERY, "flush-every", "N", "flush after every N requests of a thread"},
        {KEY_SEED, "seed", "N", "of random offsets and of what is written (default 1)"},
        {0},
};

struct bench {
	const char *op;
	uint64_t bs, size; /* size 0: the disk's */
	bool stride_given;
	struct load_options load;
};

static void op_parse(const struct cli *cli, struct bench *bench, const char *text)
{
	bench->op = text;
	bench->load.random = strncmp(text, "rand", 4) == 0;
	text += bench->load.random ? 4 : 0;
	bench->load.write = strcmp(text, "write") == 0;
	if (!bench->load.write && strcmp(text, "read") != 0)
		cli_usage(cli, "--op: '%s' is none of read, write, randread, randwrite", bench->op);
}

/* Seconds, also as "0.5". */
static uint64_t runtime_parse(const struct cli *cli, const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds > 0) || seconds > 1e6)
		cli_usage(cli, "--runtime: '%s' is no number of seconds above 0", text);
	return (uint64_t)(seconds * 1e9) + 1;
}

static void options_parse(struct cli *cli, struct bench *bench)
{
	const char *arg;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		switch (key) {
		case KEY_OP:
			op_parse(cli, bench, arg);
			break;
		case KEY_BS:
			bench->bs = cli_size(cli, "--bs", arg);
			if (bench->bs == 0 || bench->bs > 64 << 20)
				cli_usage(cli, "--bs: '%s' is not between 1 and 64M", arg);
			break;
		case KEY_DEPTH:
			bench->load.depth = (unsigned)cli_number(cli, "--depth", arg, 1, 65536);
			break;
		case KEY_COUNT:
			bench->load.count = cli_number(cli, "--count", arg, 1, UINT64_MAX / 2);
			break;
		case KEY_RUNTIME:
			bench->load.runtime_ns = runtime_parse(cli, arg);
			break;
		case KEY_STRIDE:
			bench->load.stride = cli_size(cli, "--stride", arg);
			bench->stride_given = true;
			break;
		case KEY_SIZE:
			bench->size = cli_size(cli, "--size", arg);
			break;
		case KEY_THREADS:
			bench->load.threads = (unsigned)cli_number(cli, "--threads", arg, 1, 1024);
			break;
		case KEY_FLUSH_EVERY:
			bench->load.flush_every = cli_number(cli, "--flush-every", arg, 1, UINT64_MAX / 2);
			break;
		case KEY_SEED:
			bench->load.seed = cli_number(cli, "--seed", arg, 0, UINT64_MAX);
			break;
		}
	}
	if (!bench->op)
		cli_usage(cli, "--op says what to measure: read, write, randread or randwrite");
	if (!bench->load.count && !bench->load.runtime_ns)
		cli_usage(cli, "--count or --runtime says when to end");
	if (bench->load.random && bench->stride_given)
		cli_usage(cli, "--stride: random requests have none");
	if (!bench->stride_given)
		bench->load.stride = bench->bs;
	bench->load.request_bytes = (uint32_t)bench->bs;
}

static int sizes_check(const struct cli *cli, const struct cli_disk *disk, struct bench *bench)
{
	uint32_t align = disk->info.request_align;

	if (bench->load.request_bytes % align || bench->load.stride % align)
		return cli_fail(cli, "%s: --bs and --stride must be multiples of %u there", disk->path, align);
	if (bench->size > disk->info.size)
		return cli_fail(cli, "%s: --size is more than the disk's %" PRIu64 " bytes", disk->path, disk->info.size);
	bench->load.size = bench->size ? bench->size : disk->info.size;
	if (bench->load.size < bench->load.request_bytes)
		return cli_fail(cli, "%s: one request of --bs is larger than the disk, or than --size", disk->path);
	return CLI_OK;
}

static double micros(uint64_t ns)
{
	return (double)ns / 1e3;
}

static void result_json(const struct bench *bench, const struct cli_disk *disk, const struct load_result *result,
                        double seconds, double iops)
{
	struct json json = json_to(stdout);

	json_object_begin(&json, NULL);
	json_string(&json, "file", disk->path);
	json_string(&json, "format", disk->vhd ? "vhd" : "raw");
	json_bool(&json, "direct", disk->info.direct);
	json_string(&json, "op", bench->op);
	json_uint(&json, "bs", bench->load.request_bytes);
	json_uint(&json, "depth", bench->load.depth);
	json_uint(&json, "threads", bench->load.threads);
	json_uint(&json, "size", bench->load.size);
	json_uint(&json, "requests", result->requests);
	json_uint(&json, "flushes", result->flushes);
	json_double(&json, "seconds", seconds);
	json_double(&json, "iops", iops);
	json_double(&json, "bytes_per_second", iops * (double)bench->load.request_bytes);
	json_double(&json, "cpu_seconds", result->cpu_seconds);
	json_double(&json, "final_flush_seconds", (double)result->flush_ns / 1e9);
	json_object_begin(&json, "latency_us");
	json_double(&json, "p50", micros(histogram_percentile(&result->latency_ns, 0.50)));
	json_double(&json, "p99", micros(histogram_percentile(&result->latency_ns, 0.99)));
	json_double(&json, "max", micros(result->latency_ns.max));
	json_object_end(&json);
	json_object_end(&json);
}

static void result_print(const struct bench *bench, const struct load_result *result, double seconds, double iops)
{
	char bs[SIZE_TEXT_MAX], rate[SIZE_TEXT_MAX];

	size_text(bench->load.request_bytes, bs);
	size_text((uint64_t)(iops * (double)bench->load.request_bytes), rate);
	printf("%s, %s a request, depth %u, %u thread%s%s\n", bench->op, bs, bench->load.depth, bench->load.threads,
	       bench->load.threads == 1 ? "" : "s", result->flushes ? ", with flushes" : "");
	printf("%" PRIu64 " requests in %.3f s: %.0f a second, %s/s\n", result->requests, seconds, iops, rate);
	printf("CPU %.3f s, %.2f us a request\n", result->cpu_seconds,
	       result->requests ? result->cpu_seconds * 1e6 / (double)result->requests : 0.0);
	printf("latency: half within %.1f us, 99 %% within %.1f us, worst %.1f us\n",
	       micros(histogram_percentile(&result->latency_ns, 0.50)),
	       micros(histogram_percentile(&result->latency_ns, 0.99)), micros(result->latency_ns.max));
	if (bench->load.write)
		printf("flush at the end, not counted above: %.3f s\n", (double)result->flush_ns / 1e9);
}

static int bench_run(struct cli *cli, const struct cli_disk *disk, struct bench *bench)
{
	static struct load_result result;
	struct err err = {.text = ""};
	double seconds, iops;
	int code = sizes_check(cli, disk, bench);

	if (code)
		return code;
	if (load_run(disk->blk, &bench->load, &result, &err) < 0)
		return cli_fail(cli, "%s: %s", disk->path, err.text);
	seconds = (double)result.elapsed_ns / 1e9;
	iops = seconds > 0 ? (double)result.requests / seconds : 0;
	if (cli->json)
		result_json(bench, disk, &result, seconds, iops);
	else
		result_print(bench, &result, seconds, iops);
	return CLI_OK;
}

static int run(struct cli *cli)
{
	struct bench bench = {.bs = 4096, .load = {.depth = 32, .threads = 1, .seed = 1}};
	struct cli_disk disk;
	int code;

	options_parse(cli, &bench);
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, bench.load.write, &disk);
	if (code)
		return code;
	/* Each thread makes a queue; this one's would only be polled by nobody. */
	blk_queue_free(disk.queue);
	disk.queue = NULL;
	code = bench_run(cli, &disk, &bench);
	return cli_disk_close(cli, &disk, code);
}

const struct cli_command command_bench = {
        .name = "bench",
        .operands = "FILE",
        .summary = "measure how fast a disk is read or written",
        .details = "Writing overwrites what FILE holds. Nothing is asked.",
        .groups = CLI_CHAIN | CLI_FORMAT | CLI_DIRECT | CLI_FORCE | CLI_JSON,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
