/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The ext driver without FUSE, over memory: crashes after every write, and damaged file systems. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "mountd/disk.h"
#include "mountd/fs.h"

#define DISK_BYTES (8u << 20)

/* A disk in memory that stops to take writes after some of them, as if the power was cut. */
struct memory {
	struct blk blk;
	uint8_t *bytes;
	unsigned writes, cut; /* after `cut` of them nothing more arrives */
};

struct memory_queue {
	struct blk_queue queue;
	struct blk_req *done;
};

static void memory_info(const struct blk *blk, struct blk_info *ret)
{
	(void)blk;
	*ret = (struct blk_info){.size = DISK_BYTES, .request_align = 512, .memory_align = 1, .discard_granularity = 512};
}

static void memory_submit(struct blk_queue *queue, struct blk_req *req)
{
	struct memory *m = (struct memory *)queue->blk;
	struct memory_queue *q = (struct memory_queue *)queue;
	uint64_t at = req->offset;

	if (req->op == BLK_READ || req->op == BLK_WRITE) {
		bool lost = req->op == BLK_WRITE && m->writes++ >= m->cut;

		for (int i = 0; i < req->iovcnt; i++) {
			if (req->op == BLK_READ)
				memcpy(req->iov[i].iov_base, m->bytes + at, req->iov[i].iov_len);
			else if (!lost)
				memcpy(m->bytes + at, req->iov[i].iov_base, req->iov[i].iov_len);
			at += req->iov[i].iov_len;
		}
	} else if (req->op != BLK_FLUSH && m->writes++ < m->cut) {
		memset(m->bytes + at, 0, req->length);
	}
	req->next = q->done;
	q->done = req;
}

static int memory_poll(struct blk_queue *queue, unsigned min_done, int timeout_ms)
{
	struct memory_queue *q = (struct memory_queue *)queue;
	int n = 0;

	(void)min_done;
	(void)timeout_ms;
	while (q->done) {
		struct blk_req *req = q->done;

		q->done = req->next;
		req->done(req, 0);
		n++;
	}
	return n;
}

static void memory_queue_free(struct blk_queue *queue)
{
	free(queue);
}

static int memory_queue_new(struct blk *blk, struct ring *ring, struct blk_queue **ret, struct err *err)
{
	static const struct blk_queue_ops ops = {memory_submit, memory_poll, memory_queue_free};
	struct memory_queue *q = calloc(1, sizeof(*q));

	(void)ring;
	(void)err;
	assert_non_null(q);
	q->queue = (struct blk_queue){&ops, blk, -1};
	*ret = &q->queue;
	return 0;
}

static const struct blk_ops memory_ops = {.info = memory_info, .queue_new = memory_queue_new};

static uint64_t state;

static uint64_t rnd(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static char folder[] = "/tmp/test-ext-XXXXXX";
static char image[64];

static int make_folder(void **unused)
{
	(void)unused;
	if (!mkdtemp(folder))
		return -1;
	snprintf(image, sizeof(image), "%s/image", folder);
	return 0;
}

static int remove_folder(void **unused)
{
	(void)unused;
	unlink(image);
	return rmdir(folder);
}

static void image_store(const uint8_t *bytes)
{
	FILE *file = fopen(image, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, DISK_BYTES, file), DISK_BYTES);
	assert_int_equal(fclose(file), 0);
}

/* A new file system's bytes, allocated. */
static uint8_t *image_make(const char *mkfs)
{
	uint8_t *bytes = calloc(1, DISK_BYTES);
	char command[256];
	FILE *file;

	assert_non_null(bytes);
	image_store(bytes);
	snprintf(command, sizeof(command), "PATH=$PATH:/sbin:/usr/sbin %s -q -F %s", mkfs, image);
	if (system(command) != 0)
		skip(); /* no mkfs */
	file = fopen(image, "r");
	assert_non_null(file);
	assert_int_equal(fread(bytes, 1, DISK_BYTES, file), DISK_BYTES);
	fclose(file);
	return bytes;
}

static bool image_has(const char *options, const char *complaint)
{
	char command[256];

	snprintf(command, sizeof(command), "PATH=$PATH:/sbin:/usr/sbin e2fsck %s %s 2>&1 | grep -qi '%s'", options, image,
	         complaint);
	return system(command) == 0;
}

struct session {
	struct disk *disk;
	struct fs *fs;
};

static int session_open(struct session *s, struct memory *m, bool read_only)
{
	struct volume volume;
	struct err err;
	int e;

	assert_int_equal(disk_new(&m->blk, &s->disk, &err), 0);
	volume = (struct volume){s->disk, 0, DISK_BYTES};
	e = ext_open(&volume, read_only, NULL, &s->fs, &err);
	if (e) {
		assert_true(strlen(err.text) > 10);
		disk_free(s->disk);
	}
	return e;
}

static void session_close(struct session *s)
{
	struct err err;

	(void)s->fs->ops->close(s->fs, &err);
	disk_free(s->disk);
}

/* A file with new content, or none. */
static void change(struct fs *fs, unsigned id)
{
	const struct fs_new what = {.mode = S_IFREG | 0644};
	static uint8_t data[120000];
	struct fs_entry entry;
	char name[80];

	snprintf(name, sizeof(name), "file-%0*u", (int)(id % 60 + 1), id);
	if (rnd(2))
		(void)fs->ops->unlink(fs, FS_ROOT, name, false);
	if (rnd(3) == 0 || (fs->ops->make(fs, FS_ROOT, name, &what, &entry) &&
	                    fs->ops->lookup(fs, FS_ROOT, name, &entry)))
		return;
	memset(data, (int)id + 1, sizeof(data));
	if (fs->ops->open(fs, entry.node, true, rnd(2)) == 0) {
		(void)fs->ops->write(fs, entry.node, data, 1 + rnd(sizeof(data)), rnd(2) ? 0 : rnd(200000));
		fs->ops->release(fs, entry.node, true);
	}
	fs->ops->forget(fs, entry.node, 1);
}

static void load(struct fs *fs, struct memory *m)
{
	for (unsigned i = 0; i < 250 && m->writes < m->cut; i++) {
		change(fs, (unsigned)rnd(70));
		if (i % 12 == 11)
			(void)fs->ops->sync(fs);
	}
}

static void crash_everywhere(const char *mkfs)
{
	uint8_t *fresh = image_make(mkfs);
	unsigned step = getenv("CHECK_LONG") && *getenv("CHECK_LONG") ? 1 : 9, found = 0, cuts = 0;
	bool ended = false;

	for (unsigned cut = 1; !ended; cut += step) {
		struct memory m = {{&memory_ops}, malloc(DISK_BYTES), 0, cut};
		struct session s;

		assert_non_null(m.bytes);
		memcpy(m.bytes, fresh, DISK_BYTES);
		state = 88172645463325252u;
		assert_int_equal(session_open(&s, &m, false), 0);
		load(s.fs, &m);
		session_close(&s);
		ended = m.writes < m.cut;
		image_store(m.bytes);
		if (image_has("-fn", "multiply-claimed")) {
			fprintf(stderr, "%s: after %u writes a block is in two files\n", mkfs, cut);
			found++;
		}
		if (ended)
			assert_false(image_has("-fn", "fix?"));
		free(m.bytes);
		cuts++;
	}
	free(fresh);
	assert_true(cuts > 20);
	assert_int_equal(found, 0);
}

static void no_crash_leaves_a_block_in_two_files_with_extents(void **unused)
{
	(void)unused;
	crash_everywhere("mkfs.ext4 -b 4096 -N 128");
}

static void no_crash_leaves_a_block_in_two_files_with_block_maps(void **unused)
{
	(void)unused;
	crash_everywhere("mkfs.ext2 -b 1024 -N 128");
}

struct walk {
	unsigned count;
	char names[64][256];
};

static bool walk_add(void *user, const char *name, uint64_t node, mode_t type, uint64_t next)
{
	struct walk *w = user;

	(void)node;
	(void)type;
	(void)next;
	if (w->count == 64)
		return false;
	snprintf(w->names[w->count++], sizeof(w->names[0]), "%s", name);
	return true;
}

/* Everything that can be asked of a folder and of what is in it. */
static void walk(struct fs *fs, uint64_t node, unsigned depth, bool write)
{
	struct walk *w = calloc(1, sizeof(*w));
	static uint8_t data[100000];

	assert_non_null(w);
	(void)fs->ops->readdir(fs, node, 0, walk_add, w);
	for (unsigned i = 0; i < w->count; i++) {
		struct fs_entry entry;
		struct stat stat = {.st_mode = 0600, .st_size = 5000};
		char *target = NULL;

		if (w->names[i][0] == '.' || fs->ops->lookup(fs, node, w->names[i], &entry))
			continue;
		(void)fs->ops->getxattr(fs, entry.node, "user.a", data, sizeof(data));
		(void)fs->ops->listxattr(fs, entry.node, (char *)data, sizeof(data));
		if (S_ISDIR(entry.stat.st_mode) && depth < 4)
			walk(fs, entry.node, depth + 1, write);
		if (S_ISLNK(entry.stat.st_mode) && fs->ops->readlink(fs, entry.node, &target) == 0)
			free(target);
		if (S_ISREG(entry.stat.st_mode) && fs->ops->open(fs, entry.node, write, false) == 0) {
			(void)fs->ops->read(fs, entry.node, data, sizeof(data), 0);
			(void)fs->ops->seek(fs, entry.node, 0, true);
			if (write) {
				(void)fs->ops->write(fs, entry.node, data, 30000, rnd(2) ? 0 : 100000);
				(void)fs->ops->setxattr(fs, entry.node, "user.b", data, 300, 0);
				(void)fs->ops->setattr(fs, entry.node, rnd(2) ? FS_SET_SIZE : FS_SET_MODE, &stat, &stat);
			}
			(void)fs->ops->release(fs, entry.node, write);
		}
		if (write)
			(void)fs->ops->unlink(fs, node, w->names[i], S_ISDIR(entry.stat.st_mode));
		fs->ops->forget(fs, entry.node, 1);
	}
	for (unsigned i = 0; write && i < 4; i++)
		change(fs, (unsigned)rnd(70));
	free(w);
}

/* A file system with one of everything. */
static uint8_t *image_filled(const char *mkfs)
{
	const struct fs_new folder_new = {.mode = S_IFDIR | 0755}, link_new = {.mode = S_IFLNK | 0777,
		.target = "a-target-that-is-too-long-for-the-inode-and-so-lies-in-a-block-of-its-own"};
	struct memory m = {{&memory_ops}, image_make(mkfs), 0, UINT32_MAX};
	struct fs_entry entry, file;
	struct session s;
	uint8_t data[5000] = {1};

	assert_int_equal(session_open(&s, &m, false), 0);
	state = 88172645463325252u;
	load(s.fs, &m);
	assert_int_equal(s.fs->ops->make(s.fs, FS_ROOT, "link", &link_new, &entry), 0);
	s.fs->ops->forget(s.fs, entry.node, 1);
	assert_int_equal(s.fs->ops->make(s.fs, FS_ROOT, "folder", &folder_new, &entry), 0);
	for (unsigned i = 0; i < 40; i++) {
		char name[128];

		snprintf(name, sizeof(name), "%0*u", 100, i);
		assert_int_equal(s.fs->ops->make(s.fs, entry.node, name, &(struct fs_new){.mode = S_IFREG | 0644}, &file), 0);
		/* In pieces, so that it needs more than the inode has room for. */
		for (unsigned j = 0; i == 0 && j < 40; j++)
			assert_int_equal(s.fs->ops->write(s.fs, file.node, data, 10, j * 20000), 10);
		if (i < 3)
			assert_int_equal(s.fs->ops->setxattr(s.fs, file.node, "user.a", data, 900, 0), 0);
		s.fs->ops->forget(s.fs, file.node, 1);
	}
	s.fs->ops->forget(s.fs, entry.node, 1);
	session_close(&s);
	return m.bytes;
}

/* Damages what is not zero, mostly the first part, where the metadata is, and the first words of blocks. */
static void damage(uint8_t *bytes)
{
	unsigned n = 1 + (unsigned)rnd(12);

	while (n) {
		size_t at = rnd(2) ? rnd(DISK_BYTES / 8) : rnd(DISK_BYTES);

		if (rnd(2))
			at = at / 1024 * 1024 + rnd(64);
		/* The marks of the superblock stay, or nothing else is tried. */
		if (!bytes[at] || at / 1024 == 0 || at - 1024 < 0x60)
			continue;
		bytes[at] = rnd(2) ? (uint8_t)rnd(256) : bytes[at] ^ (uint8_t)(1u << rnd(8));
		n--;
	}
}

static void damaged_everywhere(const char *mkfs)
{
	uint8_t *good = image_filled(mkfs);
	unsigned rounds = getenv("CHECK_LONG") && *getenv("CHECK_LONG") ? 5000 : 300, opened = 0;

	for (unsigned i = 0; i < rounds; i++) {
		struct memory m = {{&memory_ops}, malloc(DISK_BYTES), 0, UINT32_MAX};
		struct session s;

		assert_non_null(m.bytes);
		memcpy(m.bytes, good, DISK_BYTES);
		state = 88172645463325252u + i * 7919;
		for (int j = 0; j < 20; j++)
			rnd(2);
		damage(m.bytes);
		alarm(20);
		if (session_open(&s, &m, i % 2) == 0) {
			opened++;
			walk(s.fs, FS_ROOT, 0, i % 2 == 0);
			session_close(&s);
		}
		alarm(0);
		free(m.bytes);
	}
	free(good);
	assert_true(opened > rounds / 4);
}

static void damaged_file_systems_with_extents_do_no_harm(void **unused)
{
	(void)unused;
	damaged_everywhere("mkfs.ext4 -b 1024 -N 256 -O ^metadata_csum");
}

static void damaged_file_systems_with_checksums_do_no_harm(void **unused)
{
	(void)unused;
	damaged_everywhere("mkfs.ext4 -b 4096 -N 256");
}

static void damaged_file_systems_with_block_maps_do_no_harm(void **unused)
{
	(void)unused;
	damaged_everywhere("mkfs.ext2 -b 1024 -N 256");
}

static void chmod_keeps_the_mask_of_an_acl_and_an_acl_sets_the_mode(void **unused)
{
	/* Version 2; owner rw-, user 1000 rwx, group r--, mask rwx, others ---. */
	static const uint8_t acl[] = {2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 0xe8, 3, 0, 0, 4, 0, 4, 0,
		255, 255, 255, 255, 0x10, 0, 7, 0, 255, 255, 255, 255, 0x20, 0, 0, 0, 255, 255, 255, 255};
	static const char name[] = "system.posix_acl_access";
	struct memory m = {{&memory_ops}, image_make("mkfs.ext4 -b 1024 -N 128"), 0, UINT32_MAX};
	struct stat stat = {.st_mode = 0751};
	struct fs_entry entry;
	struct session s;
	uint8_t found[100];

	(void)unused;
	assert_int_equal(session_open(&s, &m, false), 0);
	assert_int_equal(s.fs->ops->make(s.fs, FS_ROOT, "f", &(struct fs_new){.mode = S_IFREG | 0644}, &entry), 0);
	assert_int_equal(s.fs->ops->setxattr(s.fs, entry.node, name, acl, sizeof(acl), 0), 0);
	assert_int_equal(s.fs->ops->getattr(s.fs, entry.node, &entry.stat), 0);
	assert_int_equal(entry.stat.st_mode, S_IFREG | 0670);
	assert_int_equal(s.fs->ops->setattr(s.fs, entry.node, FS_SET_MODE, &stat, &stat), 0);
	assert_int_equal(stat.st_mode, S_IFREG | 0751);
	assert_int_equal(s.fs->ops->getxattr(s.fs, entry.node, name, found, sizeof(found)), sizeof(acl));
	assert_int_equal(found[6], 7);      /* owner */
	assert_int_equal(found[14], 7);     /* user 1000: as it was */
	assert_int_equal(found[22], 4);     /* group: as it was */
	assert_int_equal(found[30], 5);     /* mask */
	assert_int_equal(found[38], 1);     /* others */
	s.fs->ops->forget(s.fs, entry.node, 1);
	session_close(&s);
	image_store(m.bytes);
	assert_false(image_has("-fn", "fix?"));
	free(m.bytes);
}

/* Files of many pieces, until neither data nor the tree of pieces finds room. */
static void fill_up(const char *mkfs)
{
	struct memory m = {{&memory_ops}, image_make(mkfs), 0, UINT32_MAX};
	static uint8_t data[300000];
	unsigned failures = 0;
	struct session s;

	state = 88172645463325252u;
	assert_int_equal(session_open(&s, &m, false), 0);
	for (unsigned i = 0; i < 60; i++) {
		struct fs_entry entry;
		char name[16];
		ssize_t n = 1;

		snprintf(name, sizeof(name), "f%u", i % 40);
		if (s.fs->ops->make(s.fs, FS_ROOT, name, &(struct fs_new){.mode = S_IFREG | 0644}, &entry) &&
		    s.fs->ops->lookup(s.fs, FS_ROOT, name, &entry))
			continue;
		assert_int_equal(s.fs->ops->open(s.fs, entry.node, true, i >= 40 && i % 2), 0);
		for (uint64_t at = rnd(5000); n > 0 && at < 600 * 4096; at += 2048 + rnd(5000)) {
			n = s.fs->ops->write(s.fs, entry.node, data, rnd(30) ? 900 : sizeof(data), at);
			failures += n == -28;
			assert_true(n > 0 || n == -28);
		}
		if (rnd(3) == 0)
			(void)s.fs->ops->fallocate(s.fs, entry.node, 0, 0, 1000000);
		s.fs->ops->release(s.fs, entry.node, true);
		s.fs->ops->forget(s.fs, entry.node, 1);
		if (i % 7 == 6)
			(void)s.fs->ops->unlink(s.fs, FS_ROOT, name, false);
	}
	session_close(&s);
	image_store(m.bytes);
	if (image_has("-fn", "fix?\\|clear?\\|differences")) {
		char command[128];

		snprintf(command, sizeof(command), "e2fsck -fn %s >&2", image);
		(void)!system(command);
		fail();
	}
	free(m.bytes);
	assert_true(failures > 0);
}

static void a_file_system_that_gets_full_stays_sound(void **unused)
{
	(void)unused;
	fill_up("mkfs.ext4 -b 1024 -N 128");
	fill_up("mkfs.ext4 -b 4096 -N 128");
	fill_up("mkfs.ext2 -b 1024 -N 128");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_crash_leaves_a_block_in_two_files_with_extents),
		cmocka_unit_test(no_crash_leaves_a_block_in_two_files_with_block_maps),
		cmocka_unit_test(chmod_keeps_the_mask_of_an_acl_and_an_acl_sets_the_mode),
		cmocka_unit_test(a_file_system_that_gets_full_stays_sound),
		cmocka_unit_test(damaged_file_systems_with_extents_do_no_harm),
		cmocka_unit_test(damaged_file_systems_with_checksums_do_no_harm),
		cmocka_unit_test(damaged_file_systems_with_block_maps_do_no_harm),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
