/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/sniff.h"

#include <string.h>

static const struct {
	size_t offset;
	size_t length;
	const char *bytes;
	const char *name;
} magics[] = {
	{0, 8, "vhdxfile", "a VHDX image"},
	{0, 4, "QFI\xfb", "a QCOW or QCOW2 image"},
	{0, 4, "QED\0", "a QED image"},
	{0, 4, "KDMV", "a VMDK image"},
	{0, 4, "COWD", "a VMDK image"},
	{0, 21, "# Disk DescriptorFile", "a VMDK description"},
	{0x40, 4, "\x7f\x10\xda\xbe", "a VDI image"},
	{0x40, 4, "\xbe\xda\x10\x7f", "a VDI image"},
	{0, 16, "WithoutFreeSpace", "a Parallels image"},
	{0, 16, "WithouFreSpacExt", "a Parallels image"},
	{0, 6, "\xfd" "7zXZ\0", "a file compressed with xz: decompress it first"},
	{0, 2, "\x1f\x8b", "a file compressed with gzip: decompress it first"},
	{0, 3, "BZh", "a file compressed with bzip2: decompress it first"},
	{0, 4, "\x28\xb5\x2f\xfd", "a file compressed with zstd: decompress it first"},
	{0, 4, "PK\3\4", "a zip archive: unpack it first"},
	{0, 6, "7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"},
	{510, 2, "\x55\xaa", "a raw disk (or what is left of a fixed VHD that lost its footer)"},
};

const char *sniff_format(const uint8_t *start, size_t length)
{
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (magics[i].offset + magics[i].length <= length &&
		    !memcmp(start + magics[i].offset, magics[i].bytes, magics[i].length))
			return magics[i].name;
	return NULL;
}
