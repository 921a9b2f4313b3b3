/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/format.h"

#define GEOMETRY_MAX_SECTORS (UINT64_C(65535) * 16 * 255)
#define GEOMETRY_LARGE_SECTORS (UINT64_C(65535) * 16 * 63)

struct vhd_geometry geometry_for_size(uint64_t size_bytes)
{
	uint64_t total = size_bytes / VHD_SECTOR;
	uint64_t cylinders_times_heads;
	uint64_t heads, sectors;

	if (total > GEOMETRY_MAX_SECTORS)
		total = GEOMETRY_MAX_SECTORS;

	if (total >= GEOMETRY_LARGE_SECTORS) {
		sectors = 255;
		heads = 16;
		cylinders_times_heads = total / sectors;
	} else {
		sectors = 17;
		cylinders_times_heads = total / sectors;
		heads = (cylinders_times_heads + 1023) / 1024;
		if (heads < 4)
			heads = 4;
		if (cylinders_times_heads >= heads * 1024 || heads > 16) {
			sectors = 31;
			heads = 16;
			cylinders_times_heads = total / sectors;
		}
		if (cylinders_times_heads >= heads * 1024) {
			sectors = 63;
			heads = 16;
			cylinders_times_heads = total / sectors;
		}
	}
	return (struct vhd_geometry){
		.cylinders = (uint16_t)(cylinders_times_heads / heads),
		.heads = (uint8_t)heads,
		.sectors_per_track = (uint8_t)sectors,
	};
}
