/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* 512 bytes as a footer, as they are and with the checksum made right. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "vhd/format.h"

static void decode(const struct footer_disk *disk)
{
	struct footer footer, again;
	struct footer_disk encoded;
	struct err err = {.text = ""};
	int result = footer_decode(disk, false, &footer, &err);

	if (result) {
		FUZZ_ASSERT(result == VHD_E_CORRUPT || result == VHD_E_UNSUPPORTED);
		FUZZ_ASSERT(err.text[0] && memchr(err.text, 0, sizeof(err.text)));
	} else {
		FUZZ_ASSERT(footer_has_cookie(disk));
		FUZZ_ASSERT(footer.type == VHD_FIXED || footer.type == VHD_DYNAMIC || footer.type == VHD_DIFFERENCING);
		FUZZ_ASSERT(footer.current_size && footer.current_size % VHD_SECTOR == 0);
		FUZZ_ASSERT(footer.current_size <= VHD_MAX_SIZE);
		footer_encode(&footer, &encoded);
		/* Nothing of what was there is lost; only a checksum that early Xen tools left wrong may change. */
		if (be32_get(disk->checksum) == footer_checksum(disk))
			FUZZ_ASSERT(!memcmp(&encoded, disk, sizeof(encoded)));
		FUZZ_ASSERT(footer_decode(&encoded, false, &again, NULL) == 0);
		FUZZ_ASSERT(again.current_size == footer.current_size && again.type == footer.type);
	}
	if (footer_decode(disk, true, &footer, &err) == 0) {
		FUZZ_ASSERT(footer.current_size && footer.current_size <= VHD_MAX_SIZE);
		geometry_for_size(footer.current_size);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct footer_disk disk = {0};

	memcpy(&disk, data, size < sizeof(disk) ? size : sizeof(disk));
	decode(&disk);
	disk.checksum = be32_make(footer_checksum(&disk));
	decode(&disk);
	return 0;
}
