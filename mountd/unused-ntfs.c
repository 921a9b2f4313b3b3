/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Free clusters of NTFS. The only file that knows libntfs-3g. */

#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "mountd/unused.h"

#ifndef HAVE_NTFS

int unused_ntfs(const struct volume *volume, struct unused_list *ret, struct err *err)
{
	(void)volume;
	(void)ret;
	return err_set(err, -EOPNOTSUPP, "NTFS was left out of this build: build vhdkit with libntfs-3g (Debian, Ubuntu: "
	               "ntfs-3g-dev)");
}

#else

#include <linux/fs.h>
#include <stdlib.h>

#include <ntfs-3g/types.h>

#include <ntfs-3g/attrib.h>
#include <ntfs-3g/device.h>
#include <ntfs-3g/inode.h>
#include <ntfs-3g/layout.h>
#include <ntfs-3g/logfile.h>
#include <ntfs-3g/logging.h>
#include <ntfs-3g/runlist.h>
#include <ntfs-3g/volume.h>

#define CHKDSK "let Windows check it (chkdsk /f) and shut down fully (shutdown /s /t 0)"
#define BITMAP_STEP (64u << 10) /* bytes */
#define VSS_HEADER 0x1e00u      /* bytes; where volume shadow copies are announced */

struct device {
	const struct volume *volume;
	s64 position;
};

static int device_open(struct ntfs_device *dev, int flags)
{
	(void)flags;
	if (NDevOpen(dev)) {
		errno = EBUSY;
		return -1;
	}
	NDevSetReadOnly(dev);
	NDevSetOpen(dev);
	return 0;
}

static int device_close(struct ntfs_device *dev)
{
	NDevClearOpen(dev);
	return 0;
}

static s64 device_seek(struct ntfs_device *dev, s64 offset, int whence)
{
	struct device *d = dev->d_private;
	s64 size = (s64)d->volume->size;
	s64 base = whence == SEEK_CUR ? d->position : whence == SEEK_END ? size : 0;

	if (offset < -base || offset > size - base) {
		errno = EINVAL;
		return -1;
	}
	d->position = base + offset;
	return d->position;
}

static s64 device_pread(struct ntfs_device *dev, void *buffer, s64 count, s64 offset)
{
	struct device *d = dev->d_private;
	s64 left = (s64)d->volume->size - offset;
	int e;

	if (count < 0 || offset < 0) {
		errno = EINVAL;
		return -1;
	}
	if (left <= 0)
		return 0;
	if (count > left)
		count = left;
	e = volume_read(d->volume, &(struct piece){buffer, (size_t)count, (uint64_t)offset}, 1);
	if (e) {
		errno = -e;
		return -1;
	}
	return count;
}

static s64 device_read(struct ntfs_device *dev, void *buffer, s64 count)
{
	struct device *d = dev->d_private;
	s64 n = device_pread(dev, buffer, count, d->position);

	if (n > 0)
		d->position += n;
	return n;
}

static s64 device_write(struct ntfs_device *dev, const void *buffer, s64 count)
{
	(void)dev;
	(void)buffer;
	(void)count;
	errno = EROFS;
	return -1;
}

static s64 device_pwrite(struct ntfs_device *dev, const void *buffer, s64 count, s64 offset)
{
	(void)offset;
	return device_write(dev, buffer, count);
}

static int device_sync(struct ntfs_device *dev)
{
	(void)dev;
	return 0;
}

static int device_stat(struct ntfs_device *dev, struct stat *ret)
{
	(void)dev;
	(void)ret;
	errno = ENOTSUP;
	return -1;
}

static int device_ioctl(struct ntfs_device *dev, unsigned long request, void *argument)
{
	const struct device *d = dev->d_private;

	if (request == BLKGETSIZE64) {
		memcpy(argument, &d->volume->size, sizeof(uint64_t));
		return 0;
	}
	errno = ENOTTY;
	return -1;
}

static struct ntfs_device_operations device_operations = {
	.open = device_open,
	.close = device_close,
	.seek = device_seek,
	.read = device_read,
	.write = device_write,
	.pread = device_pread,
	.pwrite = device_pwrite,
	.sync = device_sync,
	.stat = device_stat,
	.ioctl = device_ioctl,
};

static int damaged(struct err *err, const char *what)
{
	return err_set(err, -EUCLEAN, "it is damaged: %s; " CHKDSK, what);
}

static int check_flags(const ntfs_volume *vol, struct err *err)
{
	const le16 underway = VOLUME_RESIZE_LOG_FILE | VOLUME_UPGRADE_ON_MOUNT | VOLUME_DELETE_USN_UNDERWAY |
	                      VOLUME_REPAIR_OBJECT_ID | VOLUME_CHKDSK_UNDERWAY;

	if (vol->flags & VOLUME_IS_DIRTY)
		return err_set(err, -EUCLEAN, "it is marked as dirty (it was not unmounted cleanly, or is in use): " CHKDSK);
	if (vol->flags & underway)
		return err_set(err, -EUCLEAN, "Windows has not finished work on it (flags 0x%x): " CHKDSK,
		               (unsigned)le16_to_cpu(vol->flags));
	if (!NTFS_V3_0(vol->major_ver, vol->minor_ver) && !NTFS_V3_1(vol->major_ver, vol->minor_ver))
		return err_set(err, -EUCLEAN, "it is of a version that is not known here (%u.%u)", vol->major_ver,
		               vol->minor_ver);
	return 0;
}

static int check_hibernation(ntfs_volume *vol, struct err *err)
{
	if (ntfs_volume_check_hiberfile(vol, 0) == 0)
		return 0;
	if (errno == EPERM)
		return err_set(err, -EUCLEAN, "Windows is hibernated on it (fast startup does that too): shut it down fully "
		               "(shutdown /s /t 0)");
	return damaged(err, "whether Windows is hibernated on it cannot be read");
}

/* The attribute of a system file. NULL: it is not there, or damaged. Closed with attribute_close. */
static ntfs_attr *attribute_open(ntfs_volume *vol, MFT_REF file, ntfschar *name, u32 name_length)
{
	ntfs_inode *inode = ntfs_inode_open(vol, file);
	ntfs_attr *attribute = inode ? ntfs_attr_open(inode, AT_DATA, name, name_length) : NULL;

	if (inode && !attribute)
		ntfs_inode_close(inode);
	return attribute;
}

static void attribute_close(ntfs_attr *attribute)
{
	ntfs_inode *inode = attribute->ni;

	ntfs_attr_close(attribute);
	ntfs_inode_close(inode);
}

static int check_log(ntfs_volume *vol, struct err *err)
{
	ntfs_attr *log = attribute_open(vol, FILE_LogFile, AT_UNNAMED, 0);
	RESTART_PAGE_HEADER *restart = NULL;
	int e = 0;

	if (!log)
		return damaged(err, "its $LogFile cannot be read");
	if (!ntfs_check_logfile(log, &restart))
		e = damaged(err, "its $LogFile is");
	else if (!ntfs_is_logfile_clean(log, restart))
		e = err_set(err, -EUCLEAN, "its $LogFile holds changes that are not applied yet (it was not unmounted cleanly, or "
		            "is in use): " CHKDSK);
	free(restart);
	attribute_close(log);
	return e;
}

/*
 * The content of a shadow copy (restore point) lies where it lay when that was made, also in clusters that are free
 * since. The header is on every volume that ever had one; it leads to a catalog while there are any.
 */
static int check_shadow_copies(const struct volume *volume, struct err *err)
{
	static const uint8_t guid[16] = {0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e,
	                                 0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52};
	static const uint8_t none[8];
	uint8_t header[64];
	int e = volume_read(volume, &(struct piece){header, sizeof(header), VSS_HEADER}, 1);

	if (e)
		return err_set(err, e, "cannot be read: %s", strerror(-e));
	if (memcmp(header, guid, sizeof(guid)) == 0 && memcmp(header + 0x30, none, sizeof(none)) != 0)
		return err_set(err, -EBUSY, "it has shadow copies (restore points), parts of which lie in free clusters: delete "
		               "them in Windows first (vssadmin delete shadows), or leave the file system alone");
	return 0;
}

static int check_bad_clusters(ntfs_volume *vol, struct err *err)
{
	static ntfschar name[] = {const_cpu_to_le16('$'), const_cpu_to_le16('B'), const_cpu_to_le16('a'),
	                          const_cpu_to_le16('d')};
	ntfs_attr *bad = attribute_open(vol, FILE_BadClus, name, 4);
	int e = 0;

	if (!bad || !NAttrNonResident(bad) || ntfs_attr_map_whole_runlist(bad))
		e = damaged(err, "its list of bad clusters cannot be read");
	for (const runlist_element *run = e ? NULL : bad->rl; run && run->length && !e; run++)
		if (run->lcn >= 0)
			e = err_set(err, -EUCLEAN, "it has bad clusters, so it may have been copied from a failing disk: " CHKDSK);
	if (bad)
		attribute_close(bad);
	return e;
}

/* Part of $Bitmap. `first` is a multiple of 8. */
static int read_bits(ntfs_volume *vol, u64 first, u64 count, uint8_t *bits, struct err *err)
{
	s64 bytes = (s64)((count + 7) / 8);

	if (ntfs_attr_pread(vol->lcnbmp_na, (s64)(first / 8), bytes, bits) != bytes)
		return damaged(err, "its $Bitmap cannot be read");
	return 0;
}

/* That clusters which are certainly in use are so in $Bitmap. */
static int check_used(ntfs_volume *vol, s64 first, s64 count, const char *what, struct err *err)
{
	uint8_t bits[4096];
	int e = 0;

	if (first < 0 || count < 0 || first > vol->nr_clusters || count > vol->nr_clusters - first)
		return damaged(err, "a system file reaches beyond its end");
	while (count && !e) {
		s64 base = first & ~(s64)7;
		s64 step = base + (s64)sizeof(bits) * 8 - first;

		if (step > count)
			step = count;
		e = read_bits(vol, (u64)base, (u64)(first + step - base), bits, err);
		for (s64 i = first - base; i < first - base + step && !e; i++)
			if (!(bits[i / 8] >> i % 8 & 1))
				e = err_set(err, -EUCLEAN, "it is damaged: $Bitmap says that a cluster of %s is free; " CHKDSK, what);
		first += step;
		count -= step;
	}
	return e;
}

static int check_attribute(ntfs_volume *vol, ntfs_attr *attribute, const char *what, struct err *err)
{
	int e = 0;

	if (!attribute)
		return damaged(err, "a system file is missing");
	if (!NAttrNonResident(attribute))
		return 0;
	if (ntfs_attr_map_whole_runlist(attribute))
		return damaged(err, "where a system file lies cannot be read");
	for (const runlist_element *run = attribute->rl; run->length && !e; run++)
		e = run->lcn < 0 ? damaged(err, "a system file has holes") : check_used(vol, run->lcn, run->length, what, err);
	return e;
}

static int check_bitmap(ntfs_volume *vol, struct err *err)
{
	ntfs_attr *bitmap = vol->lcnbmp_na;
	s64 bytes = (vol->nr_clusters + 7) / 8;

	/* What is not initialised, in a hole or compressed, would read as zeros, which is to say free. */
	if (!bitmap || !NAttrNonResident(bitmap) || NAttrCompressed(bitmap) || NAttrEncrypted(bitmap) ||
	    NAttrSparse(bitmap) || bitmap->data_size < bytes || bitmap->initialized_size < bytes)
		return damaged(err, "its $Bitmap does not cover it");
	return check_attribute(vol, vol->lcnbmp_na, "$Bitmap", err);
}

static int check_system_files(ntfs_volume *vol, struct err *err)
{
	static const struct {
		MFT_REF file;
		const char *name;
	} others[] = {{FILE_LogFile, "$LogFile"}, {FILE_UpCase, "$UpCase"}, {FILE_AttrDef, "$AttrDef"}, {FILE_Boot, "$Boot"}};
	s64 boot = (8192 + vol->cluster_size - 1) / vol->cluster_size;
	int e = check_bitmap(vol, err);

	if (!e)
		e = check_used(vol, 0, boot, "the boot sectors", err);
	if (!e)
		e = check_attribute(vol, vol->mft_na, "the $MFT", err);
	if (!e)
		e = check_attribute(vol, vol->mftbmp_na, "the $MFT", err);
	if (!e)
		e = check_attribute(vol, vol->mftmirr_na, "$MFTMirr", err);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]) && !e; i++) {
		ntfs_attr *attribute = attribute_open(vol, others[i].file, AT_UNNAMED, 0);

		e = check_attribute(vol, attribute, others[i].name, err);
		if (attribute)
			attribute_close(attribute);
	}
	return e;
}

static int scan(const struct volume *volume, ntfs_volume *vol, struct unused_list *list, struct err *err)
{
	uint8_t *bits;
	uint64_t bytes;
	int e;

	if (vol->nr_clusters <= 0 || !is_power_of_two(vol->cluster_size) || vol->cluster_size < BLK_SECTOR_SIZE ||
	    !checked_mul((uint64_t)vol->nr_clusters, vol->cluster_size, &bytes) || bytes > volume->size)
		return damaged(err, "it is larger than the place where it lies");
	e = check_flags(vol, err);
	if (!e)
		e = check_hibernation(vol, err);
	if (!e)
		e = check_log(vol, err);
	if (!e)
		e = check_shadow_copies(volume, err);
	if (!e)
		e = check_bad_clusters(vol, err);
	if (!e)
		e = check_system_files(vol, err);
	if (e)
		return e;
	bits = malloc(BITMAP_STEP);
	if (!bits)
		return err_set(err, -ENOMEM, "out of memory");
	for (u64 at = 0, count; at < (u64)vol->nr_clusters && !e; at += count) {
		count = (u64)vol->nr_clusters - at;
		if (count > BITMAP_STEP * UINT64_C(8))
			count = BITMAP_STEP * UINT64_C(8);
		e = read_bits(vol, at, count, bits, err);
		if (!e && unused_add_clear_bits(list, bits, count, at * vol->cluster_size, vol->cluster_size))
			e = err_set(err, -ENOMEM, "out of memory");
	}
	free(bits);
	return e;
}

int unused_ntfs(const struct volume *volume, struct unused_list *ret, struct err *err)
{
	struct device device = {.volume = volume};
	struct ntfs_device *dev;
	ntfs_volume *vol;
	int e;

	if (volume->size > INT64_MAX)
		return damaged(err, "its size");
	ntfs_log_set_handler(ntfs_log_handler_null);
	dev = ntfs_device_alloc("vhd", 0, &device_operations, &device);
	if (!dev)
		return err_set(err, -ENOMEM, "out of memory");
	vol = ntfs_device_mount(dev, NTFS_MNT_RDONLY | NTFS_MNT_FORENSIC);
	if (!vol) {
		e = errno;
		if (NDevOpen(dev))
			device_close(dev);
		ntfs_device_free(dev);
		return err_set(err, -EUCLEAN, "it cannot be read (%s): " CHKDSK, strerror(e));
	}
	e = scan(volume, vol, ret, err);
	ntfs_umount(vol, TRUE);
	return e;
}

#endif
