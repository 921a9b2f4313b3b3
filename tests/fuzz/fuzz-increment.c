/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Increments: as they are, and with their hashes made right as far as records follow each other. Whatever is handed on
 * lies inside the disk, in order.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "vhd/increment.h"

static void try(const uint8_t *bytes, size_t size)
{
	int fd = memfd_create("increment", MFD_CLOEXEC), rc;
	struct increment_reader reader;
	struct increment_record record;
	struct err err = {.text = ""};
	uint64_t end = 0;

	FUZZ_ASSERT(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	rc = increment_read_head(&reader, fd, -1, "increment", &err);
	if (rc == 0)
		rc = 1;
	while (rc > 0) {
		rc = increment_read_next(&reader, &record, &err);
		if (rc <= 0)
			break;
		FUZZ_ASSERT(record.length > 0 && record.offset >= end && record.offset + record.length <= reader.head.size);
		FUZZ_ASSERT(record.zeros == !record.data);
		end = record.offset + record.length;
	}
	FUZZ_ASSERT(rc == 0 || err.text[0]);
	FUZZ_ASSERT(rc || reader.counts.stream_bytes == size);
	increment_reader_done(&reader);
	close(fd);
}

static void hash_put(uint8_t *at, XXH128_hash_t hash)
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(at, canonical.digest, 16);
}

static void hashes_mend(uint8_t *bytes, size_t size)
{
	XXH64_canonical_t head;
	size_t at = INCREMENT_HEAD, length;

	memcpy(bytes, "VHDINCRM\0\0\0\1\0\0\0\0", 16);
	memset(bytes + 48, 0, 4);
	memset(bytes + 56, 0, 4);
	XXH64_canonicalFromHash(&head, XXH3_64bits(bytes, 120));
	memcpy(bytes + 120, head.digest, 8);
	while (at < size && size - at >= INCREMENT_RECORD) {
		uint8_t *record = bytes + at, *hashed;

		if (!memcmp(record, "DONE", 4)) {
			hash_put(record + 24, XXH3_128bits(bytes, at + 24));
			return;
		}
		length = memcmp(record, "DATA", 4) ? 0 : (size_t)record[21] << 16 | (size_t)record[22] << 8 | record[23];
		if (length > size - at - INCREMENT_RECORD)
			return;
		hashed = malloc(24 + length);
		FUZZ_ASSERT(hashed);
		memcpy(hashed, record, 24);
		memcpy(hashed + 24, record + INCREMENT_RECORD, length);
		hash_put(record + 24, XXH3_128bits(hashed, 24 + length));
		free(hashed);
		at += INCREMENT_RECORD + length;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes;

	try(data, size);
	if (size < INCREMENT_HEAD)
		return 0;
	bytes = malloc(size);
	FUZZ_ASSERT(bytes);
	memcpy(bytes, data, size);
	hashes_mend(bytes, size);
	try(bytes, size);
	free(bytes);
	return 0;
}
