/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Free clusters of NTFS: those that $Bitmap says are free, if it agrees with the runs of all files in the $MFT; NTFS keeps
 * neither a checksum nor a count of it. The only file that knows libntfs-3g.
 */

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
#include <ntfs-3g/mft.h>
#include <ntfs-3g/runlist.h>
#include <ntfs-3g/volume.h>

#define CHKDSK "let Windows check it (chkdsk /f) and shut down fully (shutdown /s /t 0)"
#define BITMAP_STEP (64u << 10) /* bytes */
#define MFT_STEP (256u << 10)   /* bytes */
#define BOOT_BYTES 8192u
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

static int check_bitmap(ntfs_volume *vol, struct err *err)
{
	ntfs_attr *bitmap = vol->lcnbmp_na;
	s64 bytes = (vol->nr_clusters + 7) / 8;

	/* What is not initialised, in a hole or compressed, would read as zeros, which is to say free. */
	if (!bitmap || !NAttrNonResident(bitmap) || NAttrCompressed(bitmap) || NAttrEncrypted(bitmap) ||
	    NAttrSparse(bitmap) || bitmap->data_size < bytes || bitmap->initialized_size < bytes ||
	    ntfs_attr_map_whole_runlist(bitmap))
		return damaged(err, "its $Bitmap does not cover it");
	for (const runlist_element *run = bitmap->rl; run->length; run++)
		if (run->lcn < 0)
			return damaged(err, "its $Bitmap has holes");
	return 0;
}

/* The clusters that belong to a file, found by going through the $MFT: a bit for each. */
struct owned {
	ntfs_volume *vol;
	uint8_t *bits;
};

static int own_runs(struct owned *o, const runlist_element *run, struct err *err)
{
	for (; run->length; run++) {
		if (run->lcn < 0)
			continue;
		if (run->lcn > o->vol->nr_clusters || run->length < 0 || run->length > o->vol->nr_clusters - run->lcn)
			return damaged(err, "a file reaches beyond its end");
		/* That no cluster is claimed twice bounds the work too. */
		for (s64 i = run->lcn; i < run->lcn + run->length; i++) {
			if (o->bits[i / 8] >> i % 8 & 1)
				return damaged(err, "two files share a cluster");
			o->bits[i / 8] |= (uint8_t)(1u << i % 8);
		}
	}
	return 0;
}

/* Extension records hold pieces of attributes with runs of their own, so each record can be taken by itself. */
static int own_record(struct owned *o, MFT_RECORD *record, struct err *err)
{
	const u32 size = o->vol->mft_record_size, fixed = offsetof(ATTR_RECORD, compressed_size);
	u32 used = le32_to_cpu(record->bytes_in_use), at = le16_to_cpu(record->attrs_offset);
	int e = 0;

	if (used > size)
		return damaged(err, "a record of its $MFT");
	while (!e) {
		ATTR_RECORD *attribute = (ATTR_RECORD *)((uint8_t *)record + at);
		runlist *runs;
		u32 length;

		if (at % 8 || at > used || used - at < 4)
			return damaged(err, "a record of its $MFT");
		if (attribute->type == AT_END)
			return 0;
		length = used - at < 16 ? 0 : le32_to_cpu(attribute->length);
		if (length < 16 || length % 8 || length > used - at ||
		    (attribute->non_resident &&
		     (length < fixed || le16_to_cpu(attribute->mapping_pairs_offset) < fixed ||
		      le16_to_cpu(attribute->mapping_pairs_offset) >= length)))
			return damaged(err, "a record of its $MFT");
		at += length;
		if (!attribute->non_resident)
			continue;
		runs = ntfs_mapping_pairs_decompress(o->vol, attribute, NULL);
		if (!runs)
			return damaged(err, "where a file lies cannot be read");
		e = own_runs(o, runs, err);
		free(runs);
	}
	return e;
}

static int own_files(struct owned *o, struct err *err)
{
	ntfs_volume *vol = o->vol;
	const u32 size = vol->mft_record_size;
	const s64 count = vol->mft_na->initialized_size / size, step = MFT_STEP / size;
	uint8_t *records = malloc(MFT_STEP), in_use[MFT_STEP / 256 / 8];
	int e = records ? 0 : err_set(err, -ENOMEM, "out of memory");

	for (s64 at = 0, n; at < count && !e; at += n) {
		n = count - at < step ? count - at : step;
		/* `at` is a multiple of `step`, and that of 8. */
		if (ntfs_attr_mst_pread(vol->mft_na, at * size, n, size, records) != n ||
		    ntfs_attr_pread(vol->mftbmp_na, at / 8, (n + 7) / 8, in_use) != (n + 7) / 8)
			e = damaged(err, "its $MFT cannot be read");
		for (s64 i = 0; i < n && !e; i++) {
			MFT_RECORD *record = (MFT_RECORD *)(records + i * size);
			bool good = ntfs_is_file_record(record->magic) && record->flags & MFT_RECORD_IN_USE;

			if (good)
				e = own_record(o, record, err);
			else if (in_use[i / 8] >> i % 8 & 1 || ntfs_is_baad_record(record->magic))
				e = damaged(err, "a record of its $MFT");
		}
	}
	free(records);
	return e;
}

/* That $Bitmap, of which `bits` is a part, agrees with what files own. */
static int check_owned(const struct owned *o, const uint8_t *bits, u64 first, u64 count, struct err *err)
{
	for (u64 i = 0; i < (count + 7) / 8; i++)
		if (o->bits[first / 8 + i] & ~bits[i])
			return damaged(err, "its $Bitmap says that clusters of a file are free");
	return 0;
}

static int scan_bitmap(ntfs_volume *vol, struct unused_list *list, struct err *err)
{
	struct owned owned = {vol, calloc(1, (size_t)((vol->nr_clusters + 7) / 8))};
	s64 boot = (BOOT_BYTES + vol->cluster_size - 1) / vol->cluster_size;
	uint8_t *bits = malloc(BITMAP_STEP);
	int e = owned.bits && bits ? own_files(&owned, err) : err_set(err, -ENOMEM, "there is not enough memory for its size");

	for (s64 i = 0; i < boot && i < vol->nr_clusters && !e; i++)
		if (!(owned.bits[i / 8] >> i % 8 & 1))
			e = damaged(err, "its $Boot does not cover the boot sectors");
	for (u64 at = 0, count; at < (u64)vol->nr_clusters && !e; at += count) {
		count = (u64)vol->nr_clusters - at;
		if (count > BITMAP_STEP * UINT64_C(8))
			count = BITMAP_STEP * UINT64_C(8);
		e = read_bits(vol, at, count, bits, err);
		if (!e)
			e = check_owned(&owned, bits, at, count, err);
		if (!e && unused_add_clear_bits(list, bits, count, at * vol->cluster_size, vol->cluster_size))
			e = err_set(err, -ENOMEM, "out of memory");
	}
	free(bits);
	free(owned.bits);
	return e;
}

static int scan(const struct volume *volume, ntfs_volume *vol, struct unused_list *list, struct err *err)
{
	uint64_t bytes;
	int e;

	if (vol->nr_clusters <= 0 || !is_power_of_two(vol->cluster_size) || vol->cluster_size < BLK_SECTOR_SIZE ||
	    !is_power_of_two(vol->mft_record_size) || vol->mft_record_size < 256 || vol->mft_record_size > MFT_STEP / 8 ||
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
		e = check_bitmap(vol, err);
	return e ? e : scan_bitmap(vol, list, err);
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
