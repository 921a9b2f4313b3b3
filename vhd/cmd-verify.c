/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <inttypes.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "vhd/hashing.h"

struct verify {
	bool as_json;
	struct json json;
	uint32_t block_size;
	uint64_t size;                  /* the longer of the two */
	uint64_t first, count;          /* blocks of the range not printed yet */
	uint64_t ranges;
};

static void range_print(struct verify *verify)
{
	uint64_t offset = verify->first * verify->block_size, length = verify->count * verify->block_size;

	if (verify->count == 0)
		return;
	if (length > verify->size - offset)
		length = verify->size - offset;
	verify->ranges++;
	if (verify->as_json) {
		json_object_begin(&verify->json, NULL);
		json_uint(&verify->json, "first_block", verify->first);
		json_uint(&verify->json, "blocks", verify->count);
		json_uint(&verify->json, "offset", offset);
		json_uint(&verify->json, "length", length);
		json_object_end(&verify->json);
	} else {
		printf("blocks %" PRIu64 " to %" PRIu64 " differ: offset %" PRIu64 ", %" PRIu64 " bytes\n", verify->first,
		       verify->first + verify->count - 1, offset, length);
	}
	verify->count = 0;
}

static void block_differs(struct verify *verify, uint64_t block)
{
	if (verify->count == 0 || verify->first + verify->count != block) {
		range_print(verify);
		verify->first = block;
	}
	verify->count = block + 1 - verify->first;
}

static void entries_compare(struct verify *verify, const struct manifest *a, const struct manifest *b)
{
	size_t i = 0, k = 0;

	while (i < a->count || k < b->count) {
		uint64_t a_block = i < a->count ? a->entries[i].block : UINT64_MAX;
		uint64_t b_block = k < b->count ? b->entries[k].block : UINT64_MAX;

		if (a_block < b_block)
			block_differs(verify, a_block);
		else if (a_block > b_block)
			block_differs(verify, b_block);
		else if (!XXH128_isEqual(a->entries[i].hash, b->entries[k].hash))
			block_differs(verify, a_block);
		i += a_block <= b_block;
		k += b_block <= a_block;
	}
	range_print(verify);
}

static int manifests_compare(const struct cli *cli, const struct manifest *want, const struct manifest *have)
{
	struct verify verify = {
	        .as_json = cli->json,
	        .json = json_to(stdout),
	        .block_size = want->block_size,
	        .size = want->size > have->size ? want->size : have->size,
	};
	bool same;
	int code;

	if (cli->json) {
		json_object_begin(&verify.json, NULL);
		json_uint(&verify.json, "size_bytes", have->size);
		json_uint(&verify.json, "manifest_size_bytes", want->size);
		json_uint(&verify.json, "block_size_bytes", want->block_size);
		json_array_begin(&verify.json, "differences");
	} else if (want->size != have->size) {
		printf("sizes differ: the disk has %" PRIu64 " bytes, the manifest %" PRIu64 "\n", have->size, want->size);
	}
	entries_compare(&verify, want, have);
	same = verify.ranges == 0 && want->size == have->size;
	if (same && !XXH128_isEqual(want->content, have->content))
		code = cli_fail(cli, "%s: the content's hash does not follow from the blocks' hashes", cli->operands[1]);
	else
		code = same ? CLI_OK : CLI_NO;
	if (cli->json) {
		json_array_end(&verify.json);
		json_bool(&verify.json, "same", code == CLI_OK);
		json_object_end(&verify.json);
	} else if (code == CLI_OK) {
		puts("same content");
	}
	return code;
}

static int run(struct cli *cli)
{
	struct manifest want, have;
	struct err err = {.text = ""};
	struct cli_disk disk;
	int code;

	cli_no_options(cli);
	if (manifest_read(cli->operands[1], &want, &err))
		return cli_fail_err(cli, &err);
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, false, &disk);
	if (code == CLI_OK) {
		code = disk_hash(cli, &disk, want.block_size, &have);
		if (code == CLI_OK) {
			code = manifests_compare(cli, &want, &have);
			manifest_done(&have);
		}
		code = cli_disk_close(cli, &disk, code);
	}
	manifest_done(&want);
	return code;
}

const struct cli_command command_verify = {
        .name = "verify",
        .operands = "FILE MANIFEST",
        .summary = "say whether a disk still holds what a manifest says",
        .details = "Exit status 0: same; 3: different, with the ranges; 1: could not tell, or the manifest is damaged.",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_FORMAT | CLI_DIRECT | CLI_JSON | CLI_PROGRESS,
        .min_operands = 2,
        .max_operands = 2,
        .run = run,
};
