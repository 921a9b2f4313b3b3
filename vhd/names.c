/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stddef.h>

#include "vhd/vhd.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "1.0.0"
#endif

void vhd_uuid_text(const uint8_t uuid[16], char *ret)
{
	static const char digits[] = "0123456789abcdef";
	char *out = ret;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = digits[uuid[i] >> 4];
		*out++ = digits[uuid[i] & 15];
	}
	*out = '\0';
}

const char *vhd_type_name(enum vhd_type type)
{
	switch (type) {
	case VHD_FIXED:
		return "fixed";
	case VHD_DYNAMIC:
		return "dynamic";
	case VHD_DIFFERENCING:
		return "differencing";
	}
	return NULL;
}

const char *vhd_version(void)
{
	return PACKAGE_VERSION;
}
