/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "common/bytes.h"
#include "common/interrupt.h"
#include "common/json.h"
#include "vhd/cli.h"
#include "vhd/new-file.h"

enum {
	KEY_SINCE = 256,
	KEY_BINARY,
};

static const struct cli_option options[] = {
        {KEY_SINCE, "since", "UUID", "compare with the state of this Unique Id (default: the parent)"},
        {KEY_BINARY, "binary", "OUT", "write the list to the file OUT, or - , in binary form"},
        {0},
};

/* docs/increment-format.md, "Lists of changed blocks". */
struct list_head {
	uint8_t magic[8];
	be32 version;
	be32 reserved;
	uint8_t since[16], uuid[16];
	be64 since_size, size;
	be64 count;
};

_Static_assert(sizeof(struct list_head) == 72, "head size");

struct lister {
	struct cli *cli;
	struct json json;
	struct vhd_job *job;
	struct progress progress;
	struct vhd_changed_result result;
	FILE *binary; /* NULL: text or JSON */
	XXH3_state_t *hash;
	bool begun;
};

static void binary_put(struct lister *lister, const void *bytes, size_t length)
{
	XXH3_64bits_update(lister->hash, bytes, length);
	fwrite(bytes, 1, length, lister->binary);
}

static void binary_begin(struct lister *lister)
{
	const struct vhd_changed_result *result = &lister->result;
	struct list_head head = {
	        .magic = "VHDCHNGD",
	        .version = be32_make(1),
	        .since_size = be64_make(result->since_size_bytes),
	        .size = be64_make(result->size_bytes),
	        .count = be64_make(result->extents),
	};

	memcpy(head.since, result->since, 16);
	memcpy(head.uuid, result->uuid, 16);
	XXH3_64bits_reset(lister->hash);
	binary_put(lister, &head, sizeof(head));
}

static void json_begin(struct lister *lister)
{
	const struct vhd_changed_result *result = &lister->result;
	char text[37];

	json_object_begin(&lister->json, NULL);
	json_string(&lister->json, "file", lister->cli->operands[0]);
	vhd_uuid_text(result->since, text);
	json_string(&lister->json, "since", text);
	vhd_uuid_text(result->uuid, text);
	json_string(&lister->json, "uuid", text);
	json_uint(&lister->json, "since_size_bytes", result->since_size_bytes);
	json_uint(&lister->json, "size_bytes", result->size_bytes);
	json_uint(&lister->json, "changed_bytes", result->changed_bytes);
	json_uint(&lister->json, "layers", result->layers);
	json_uint(&lister->json, "checkpoints", result->checkpoints);
	json_array_begin(&lister->json, "extents");
}

static void text_begin(struct lister *lister)
{
	const struct vhd_changed_result *result = &lister->result;
	char text[37];

	vhd_uuid_text(result->since, text);
	printf("# %" PRIu64 " bytes changed since %s (layers: %u, checkpoints: %u)\n", result->changed_bytes, text,
	       result->layers, result->checkpoints);
	if (result->since_size_bytes != result->size_bytes)
		printf("# the disk had %" PRIu64 " bytes then, and has %" PRIu64 " now\n", result->since_size_bytes,
		       result->size_bytes);
	printf("# %18s %20s\n", "offset", "length");
}

static void list_begin(struct lister *lister)
{
	lister->begun = true;
	progress_end(&lister->progress);
	if (lister->binary)
		binary_begin(lister);
	else if (lister->cli->json)
		json_begin(lister);
	else
		text_begin(lister);
}

static int extent_take(void *user, const struct vhd_extent *extent)
{
	struct lister *lister = user;

	if (!lister->begun)
		list_begin(lister);
	if (lister->binary) {
		const be64 pair[2] = {be64_make(extent->offset), be64_make(extent->length)};

		binary_put(lister, pair, sizeof(pair));
	} else if (lister->cli->json) {
		json_object_begin(&lister->json, NULL);
		json_uint(&lister->json, "offset", extent->offset);
		json_uint(&lister->json, "length", extent->length);
		json_object_end(&lister->json);
	} else {
		printf("%20" PRIu64 " %20" PRIu64 "\n", extent->offset, extent->length);
	}
	if (ferror(lister->binary ? lister->binary : stdout))
		return -EIO;
	return interrupt_seen() ? -EINTR : 0;
}

static void list_end(struct lister *lister)
{
	if (!lister->begun)
		list_begin(lister);
	if (lister->binary) {
		const be64 hash = be64_make(XXH3_64bits_digest(lister->hash));

		fwrite(&hash, 1, sizeof(hash), lister->binary);
	} else if (lister->cli->json) {
		json_array_end(&lister->json);
		json_object_end(&lister->json);
	}
}

static void on_progress(void *user, uint64_t done, uint64_t total)
{
	struct lister *lister = user;

	lister->progress.total = total;
	progress_update(&lister->progress, done);
	if (interrupt_seen())
		vhd_job_cancel(lister->job);
}

static void on_warning(void *user, const char *sentence)
{
	struct lister *lister = user;

	cli_warn(lister->cli, sentence);
}

static int list_run(struct lister *lister, const uint8_t *since)
{
	struct cli *cli = lister->cli;
	struct vhd_changed_options changed = {
	        .since = since,
	        .parent = cli->parent,
	        .parent_raw = cli->parent_raw,
	        .allow_dirs = cli->allow_dirs,
	        .job = lister->job,
	        .warn = on_warning,
	        .progress = on_progress,
	        .extent = extent_take,
	        .user = lister,
	};
	struct err err = {.text = ""};
	int rc;

	progress_begin(&lister->progress, stderr, cli->progress_mode, "blocks", 0);
	rc = vhd_changed(cli->operands[0], &changed, &lister->result, &err);
	if (!lister->begun)
		progress_end(&lister->progress);
	if (interrupt_seen())
		return cli_fail(cli, "%s: interrupted", cli->operands[0]);
	if (rc == 0)
		list_end(lister);
	if (rc == 0 || rc == -EIO) {
		/* Of standard output, main tells. */
		if (lister->binary && lister->binary != stdout && (fflush(lister->binary) || ferror(lister->binary)))
			return cli_fail(cli, "writing the list: %s", strerror(errno));
		if (rc == 0)
			return CLI_OK;
		if (!err.text[0])
			return CLI_FAILED;
	}
	cli_fail_err(cli, &err);
	return rc == VHD_E_UNKNOWN_BASE ? CLI_NO : CLI_FAILED;
}

/* The list into a file of its own, complete or not there. */
static int file_run(struct lister *lister, const char *path, const uint8_t *since)
{
	struct err err = {.text = ""};
	struct new_file file;
	int fd, code;

	if (new_file_open(path, false, &file, &err))
		return cli_fail_err(lister->cli, &err);
	fd = dup(file.fd);
	lister->binary = fd < 0 ? NULL : fdopen(fd, "w");
	if (!lister->binary) {
		code = cli_fail(lister->cli, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	} else {
		code = list_run(lister, since);
		if (fclose(lister->binary) && code == CLI_OK)
			code = cli_fail(lister->cli, "%s: %s", path, strerror(errno));
	}
	if (code == CLI_OK && new_file_commit(&file, &err))
		code = cli_fail_err(lister->cli, &err);
	new_file_done(&file);
	return code;
}

static int run(struct cli *cli)
{
	struct lister lister = {.cli = cli, .json = json_to(stdout)};
	const char *arg, *binary = NULL;
	uint8_t uuid[16];
	bool since = false;
	struct err err;
	int code;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		if (key == KEY_SINCE) {
			cli_uuid(cli, "--since", arg, uuid);
			since = true;
		} else {
			binary = arg;
		}
	}
	if (binary && cli->json)
		cli_usage(cli, "--binary and --json: one form at a time");
	if (binary && strcmp(binary, "-") == 0 && isatty(STDOUT_FILENO))
		cli_usage(cli, "--binary=-: standard output is a terminal");
	interrupt_catch();
	lister.hash = XXH3_createState();
	if (!lister.hash || vhd_job_new(&lister.job, &err)) {
		XXH3_freeState(lister.hash);
		return cli_fail(cli, "out of memory");
	}
	if (binary && strcmp(binary, "-") != 0) {
		code = file_run(&lister, binary, since ? uuid : NULL);
	} else {
		lister.binary = binary ? stdout : NULL;
		code = list_run(&lister, since ? uuid : NULL);
	}
	vhd_job_free(lister.job);
	XXH3_freeState(lister.hash);
	return code;
}

const struct cli_command command_changed = {
        .name = "changed",
        .operands = "FILE",
        .summary = "list what changed since a layer, or an earlier state",
        .details = "The list covers every difference. What is not known is never guessed: exit status 3.",
        .groups = CLI_CHAIN | CLI_JSON | CLI_PROGRESS,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
