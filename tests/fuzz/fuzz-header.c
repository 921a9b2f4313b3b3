/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* 1024 bytes as a dynamic disk's header, as they are and with the checksum made right. */
#include <string.h>

#include "common/checked.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/format.h"
#include "vhd/locator.h"

static void decode(const struct header_disk *disk)
{
	struct header header, again;
	struct header_disk encoded;
	struct err err = {.text = ""};
	int result = header_decode(disk, false, &header, &err);

	if (result) {
		FUZZ_ASSERT(result == VHD_E_CORRUPT || result == VHD_E_UNSUPPORTED);
		FUZZ_ASSERT(err.text[0] && memchr(err.text, 0, sizeof(err.text)));
	} else {
		FUZZ_ASSERT(header_has_cookie(disk));
		FUZZ_ASSERT(is_power_of_two(header.block_size) && header.block_size >= VHD_SECTOR);
		FUZZ_ASSERT(header.table_offset % VHD_SECTOR == 0);
		for (unsigned i = 0; i < VHD_LOCATORS; i++)
			locator_space_bytes(&header.locators[i]);
		header_encode(&header, &encoded);
		FUZZ_ASSERT(!memcmp(&encoded, disk, sizeof(encoded)));
		FUZZ_ASSERT(header_decode(&encoded, false, &again, NULL) == 0);
	}
	if (header_decode(disk, true, &header, &err) == 0)
		FUZZ_ASSERT(is_power_of_two(header.block_size) && header.block_size >= VHD_SECTOR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct header_disk disk = {0};
	char *name;

	memcpy(&disk, data, size < sizeof(disk) ? size : sizeof(disk));
	decode(&disk);
	disk.checksum = be32_make(header_checksum(&disk));
	decode(&disk);
	if (utf16_decode((const uint8_t *)disk.parent_name, sizeof(disk.parent_name), true, &name, NULL) == 0)
		free(name);
	return 0;
}
