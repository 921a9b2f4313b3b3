/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoint files: as they are, and with their hashes made right, so that the list is looked at. What is taken for
 * good must be the same after it was written again.
 */
#include <string.h>

#include <xxhash.h>

#include "tests/fuzz/fuzz.h"
#include "vhd/checkpoint.h"

#define SMALL_DISK (UINT64_C(1) << 32)

static void be64_put(uint8_t *at, uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		at[i] = (uint8_t)(value >> (56 - 8 * i));
}

static void try(const uint8_t *bytes, size_t size)
{
	struct checkpoint first, again;
	struct sector_run a, b;
	struct err err = {.text = ""};
	uint8_t *encoded;
	size_t length;

	if (checkpoint_decode(bytes, size, &first, &err)) {
		FUZZ_ASSERT(err.text[0]);
		return;
	}
	FUZZ_ASSERT(checkpoint_encode(&first, &encoded, &length) == 0);
	FUZZ_ASSERT(checkpoint_decode(encoded, length, &again, NULL) == 0);
	for (uint64_t at = 0; sector_set_next(&first.changed, at, &a); at = a.first + a.count) {
		FUZZ_ASSERT(a.first + a.count <= first.to_size / VHD_SECTOR);
		FUZZ_ASSERT(sector_set_next(&again.changed, at, &b) && a.first == b.first && a.count == b.count);
	}
	FUZZ_ASSERT(sector_set_count(&first.changed) == sector_set_count(&again.changed));
	free(encoded);
	checkpoint_done(&first);
	checkpoint_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes;

	try(data, size);
	if (size < CHECKPOINT_HEAD)
		return 0;
	bytes = malloc(size);
	FUZZ_ASSERT(bytes);
	memcpy(bytes, data, size);
	memcpy(bytes, "VHDKCKPT\0\0\0\1", 12);
	/* Sizes that a disk can have, and of which a case costs little. */
	be64_put(bytes + 0x40, 512);
	be64_put(bytes + 0x48, ((uint64_t)data[0x4c] << 24 | (uint64_t)data[0x4d] << 16 | (uint64_t)data[0x4e] << 8) * 2 %
	                       SMALL_DISK);
	be64_put(bytes + 0x68, size - CHECKPOINT_HEAD);
	be64_put(bytes + 0x70, XXH3_64bits(bytes + CHECKPOINT_HEAD, size - CHECKPOINT_HEAD));
	be64_put(bytes + 0x80, XXH3_64bits(bytes, 0x80));
	try(bytes, size);
	free(bytes);
	return 0;
}
