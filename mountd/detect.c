/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/detect.h"

#include <errno.h>
#include <string.h>

static const struct mark {
	uint32_t offset; /* bytes */
	uint8_t length;
	const char *bytes;
	struct content content;
} marks[] = {
	/* Containers first: what they hold may lie at the same places. */
	{0, 6, "LUKS\xba\xbe", {"LUKS encryption", false, true}},
	{3, 8, "-FVE-FS-", {"BitLocker encryption", false, true}},
	{512, 8, "LABELONE", {"an LVM volume", false, true}},
	{0, 8, "LABELONE", {"an LVM volume", false, true}},
	{1024, 8, "LABELONE", {"an LVM volume", false, true}},
	{1536, 8, "LABELONE", {"an LVM volume", false, true}},
	{4096, 4, "\xfc\x4e\x2b\xa9", {"a member of a Linux RAID", false, true}},
	{0, 4, "\xfc\x4e\x2b\xa9", {"a member of a Linux RAID", false, true}},
	{4096 + 24, 16, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", {"a bcache device", false, true}},
	{4086, 10, "SWAPSPACE2", {"Linux swap", false, true}},
	{65526, 10, "SWAPSPACE2", {"Linux swap", false, true}},
	{3, 8, "NTFS    ", {"NTFS", false, false}},
	{3, 8, "EXFAT   ", {"exFAT", false, false}},
	{3, 8, "ReFS\0\0\0\0", {"ReFS", false, false}},
	{0x52, 8, "FAT32   ", {"FAT32", false, false}},
	{0x36, 8, "FAT16   ", {"FAT16", false, false}},
	{0x36, 8, "FAT12   ", {"FAT12", false, false}},
	{0, 4, "XFSB", {"XFS", false, false}},
	{65600, 8, "_BHRfS_M", {"btrfs", false, false}},
	{1024, 4, "\x10\x20\xf5\xf2", {"F2FS", false, false}},
	{1024, 4, "\xe2\xe1\xf5\xe0", {"EROFS", false, false}},
	{0, 4, "hsqs", {"squashfs", false, false}},
	{1024, 2, "H+", {"HFS+", false, false}},
	{1024, 2, "HX", {"HFS+", false, false}},
	{32, 4, "NXSB", {"APFS", false, false}},
	{32769, 5, "CD001", {"ISO 9660", false, false}},
	{65588, 8, "ReIsErFs", {"ReiserFS", false, false}},
	{65588, 8, "ReIsEr2F", {"ReiserFS", false, false}},
	{32768, 4, "JFS1", {"JFS", false, false}},
	{1024 + 56, 2, "\x53\xef", {"ext2/3/4", true, false}},
};

int content_detect(const struct volume *volume, struct content *ret, struct err *err)
{
	uint8_t head[66 * 1024] = {0};
	size_t length = volume->size < sizeof(head) ? (size_t)volume->size : sizeof(head);
	int e = volume_read(volume, &(struct piece){head, length, 0}, 1);

	if (e)
		return err_set(err, e, "cannot read the start of the disk or partition: %s", strerror(-e));
	*ret = (struct content){0};
	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
		const char *name = marks[i].content.name;

		if (memcmp(head + marks[i].offset, marks[i].bytes, marks[i].length) != 0)
			continue;
		if (!ret->name)
			*ret = marks[i].content;
		else if (!ret->also && strcmp(ret->name, name) != 0)
			ret->also = name;
	}
	if (!ret->name)
		ret->name = "nothing known";
	return 0;
}
