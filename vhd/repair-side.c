/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The side file of a repair (docs/vhd-format.md, "Side files of a repair"): lines of text that say where each range of
 * the image was, then the bytes that were there. `tail -c +N | head -c M` and dd put them back by hand.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "vhd/new-file.h"
#include "vhd/repair.h"

#define PIECE (1u << 20) /* the longest record */
#define NAMES_MAX 10000u
#define TEXT_MAX (UINT64_C(1) << 30)
#define DATA_ALIGN 4096u

static const char magic[] = "vhdkit repair 1\n";

/* One range of the image as it was. */
struct record {
	uint64_t offset, length;
	uint64_t at;          /* of its bytes in the side file; 0: they were all zeros */
	uint64_t old, new;    /* hashes of what was there and of what the repair wrote; `new` of what was cut is 0 */
};

struct side {
	uint64_t size, becomes; /* of the image */
	struct record *records; /* owned */
	size_t count, room;
};

uint64_t repair_hash(uint64_t hash, const void *bytes, size_t length)
{
	const uint8_t *b = bytes;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ b[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t hash_of(const void *bytes, size_t length)
{
	return repair_hash(REPAIR_HASH_START, bytes, length);
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && !memcmp(bytes, bytes + 1, length - 1);
}

static int record_add(struct side *side, const struct record *record)
{
	if (side->count == side->room) {
		size_t room = side->room * 2 + 16;
		struct record *grown = reallocarray(side->records, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		side->records = grown;
		side->room = room;
	}
	side->records[side->count++] = *record;
	return 0;
}

/* Cuts a range into records; `buffers` are two of PIECE bytes. */
static int range_record(struct repair *repair, const struct repair_range *range, uint8_t *buffers, struct side *side)
{
	uint64_t end = range->offset + range->length, n;
	uint8_t *old = buffers, *new = buffers + PIECE;
	int r = 0;

	if (end > repair->plan.file_size)
		end = repair->plan.file_size;
	for (uint64_t offset = range->offset; offset < end && r == 0; offset += n) {
		struct record record = {.offset = offset};

		n = end - offset < PIECE ? end - offset : PIECE;
		record.length = n;
		r = repair->store->ops->read(repair->store, old, (size_t)n, offset);
		if (r == 0 && !range->cut)
			r = overlay_read(&repair->plan, new, (size_t)n, offset);
		if (r)
			break;
		record.old = hash_of(old, (size_t)n);
		record.new = range->cut ? 0 : hash_of(new, (size_t)n);
		record.at = !is_zero(old, (size_t)n); /* where, is known when all are */
		r = record_add(side, &record);
	}
	return r;
}

static const char *image_name(const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

	return strpbrk(name, "\r\n") ? "-" : name;
}

static int text_print(const struct side *side, const char *path, char **ret, size_t *ret_length)
{
	FILE *out = open_memstream(ret, ret_length);

	if (!out)
		return -ENOMEM;
	fprintf(out, "%simage %s\nsize %" PRIu64 "\nbecomes %" PRIu64 "\n"
	        "# each line: saved OFFSET LENGTH AT OLD NEW; the bytes that the image had at OFFSET are at AT of this file (0: "
	        "they were zeros); OLD and NEW are hashes of them and of what took their place\n",
	        magic, image_name(path), side->size, side->becomes);
	for (size_t i = 0; i < side->count; i++) {
		const struct record *record = &side->records[i];

		fprintf(out, "saved %" PRIu64 " %" PRIu64 " %013" PRIu64 " %016" PRIx64 " %016" PRIx64 "\n", record->offset,
		        record->length, record->at, record->old, record->new);
	}
	fputs("end\n", out);
	return fclose(out) ? -ENOMEM : 0;
}

static void places_set(struct side *side, uint64_t first)
{
	for (size_t i = 0; i < side->count; i++) {
		if (!side->records[i].at)
			continue;
		side->records[i].at = first;
		first += side->records[i].length;
	}
}

static int bytes_write(int fd, const void *bytes, size_t length, uint64_t offset)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = pwrite(fd, (const char *)bytes + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

static int side_fill(struct repair *repair, struct side *side, int fd, uint8_t *buffer)
{
	size_t length;
	char *text;
	int r;

	/* The length of the text does not depend on the places. */
	r = text_print(side, repair->path, &text, &length);
	if (r)
		return r;
	free(text);
	places_set(side, round_up(length, DATA_ALIGN));
	r = text_print(side, repair->path, &text, &length);
	if (r)
		return r;
	r = bytes_write(fd, text, length, 0);
	free(text);
	for (size_t i = 0; i < side->count && r == 0; i++) {
		const struct record *record = &side->records[i];

		if (!record->at)
			continue;
		r = repair->store->ops->read(repair->store, buffer, (size_t)record->length, record->offset);
		if (r == 0)
			r = bytes_write(fd, buffer, (size_t)record->length, record->at);
	}
	return r;
}

/* The name asked for, or the first that is free. */
static int side_open(struct repair *repair, struct new_file *ret)
{
	char *name = repair->result->side_file;
	int r = -EEXIST;

	if (repair->options->side_file) {
		if (snprintf(name, VHD_SIDE_FILE_MAX, "%s", repair->options->side_file) >= VHD_SIDE_FILE_MAX)
			r = err_set(repair->err, -ENAMETOOLONG, "%s: the side file's name is too long", repair->path);
		else
			r = new_file_open(name, false, ret, repair->err);
		return r;
	}
	for (unsigned n = 1; r == -EEXIST && n < NAMES_MAX; n++) {
		int length = n == 1 ? snprintf(name, VHD_SIDE_FILE_MAX, "%s.repair", repair->path)
		                    : snprintf(name, VHD_SIDE_FILE_MAX, "%s.repair.%u", repair->path, n);

		if (length >= VHD_SIDE_FILE_MAX)
			return err_set(repair->err, -ENAMETOOLONG, "%s: its name leaves no room for that of a side file", repair->path);
		r = new_file_open(name, false, ret, repair->err);
	}
	return r;
}

/* It holds what the image held: whoever may not read the one is not to read the other. */
static int side_protect(const struct repair *repair, int fd)
{
	struct stat st;

	if (fstat(repair->store->file.fd, &st) < 0)
		return -errno;
	if (fchown(fd, st.st_uid, st.st_gid) < 0)
		st.st_mode &= 0700; /* what the image's group may means nothing to another group */
	return fchmod(fd, st.st_mode & 0666) < 0 ? -errno : 0;
}

int repair_side_write(struct repair *repair, const struct repair_ranges *ranges)
{
	struct side side = {.size = repair->plan.file_size, .becomes = repair->plan.size};
	uint8_t *buffers = malloc(2 * (size_t)PIECE);
	struct new_file file;
	int r;

	if (!buffers)
		return repair_no_memory(repair);
	r = side_open(repair, &file);
	if (r) {
		free(buffers);
		repair->result->side_file[0] = '\0';
		return r;
	}
	r = side_protect(repair, file.fd);
	for (size_t i = 0; i < ranges->count && r == 0; i++)
		r = range_record(repair, &ranges->list[i], buffers, &side);
	if (r == 0)
		r = side_fill(repair, &side, file.fd, buffers);
	if (r)
		err_set(repair->err, r, "%s: writing the side file %s failed: %s; the image is as it was", repair->path,
		        repair->result->side_file, strerror(-r));
	else
		r = new_file_commit(&file, repair->err);
	new_file_done(&file);
	free(side.records);
	free(buffers);
	if (r)
		repair->result->side_file[0] = '\0';
	return r;
}

/* --- And back --- */

struct undo {
	const char *path, *side_path;
	struct store *image, *file; /* owned */
	uint64_t side_size;
	struct side side;
	uint8_t *buffer; /* owned; PIECE bytes */
	struct err *err;
};

static int not_a_side_file(const struct undo *undo, const char *why)
{
	return err_set(undo->err, VHD_E_CORRUPT, "%s: not the side file of a repair: %s", undo->side_path, why);
}

static int line_take(struct undo *undo, const char *line, bool *ret_end)
{
	struct side *side = &undo->side;
	struct record record;

	*ret_end = !strcmp(line, "end");
	if (*ret_end || line[0] == '#' || !strncmp(line, "image ", 6) || sscanf(line, "size %" SCNu64, &side->size) == 1 ||
	    sscanf(line, "becomes %" SCNu64, &side->becomes) == 1)
		return 0;
	if (sscanf(line, "saved %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNx64 " %" SCNx64, &record.offset, &record.length,
	           &record.at, &record.old, &record.new) != 5)
		return not_a_side_file(undo, "a line is not as it should be");
	if (record.length == 0 || record.length > PIECE || !range_inside(record.offset, record.length, side->size) ||
	    (record.at && !range_inside(record.at, record.length, undo->side_size)))
		return not_a_side_file(undo, "a range cannot be");
	return record_add(side, &record) ? err_set(undo->err, -ENOMEM, "%s: no memory", undo->side_path) : 0;
}

static int side_read(struct undo *undo)
{
	FILE *in = fopen(undo->side_path, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t length;
	bool end = false;
	int r = 0;

	if (!in)
		return err_set(undo->err, -errno, "%s: %s", undo->side_path, strerror(errno));
	length = getline(&line, &room, in);
	if (length < 0 || strcmp(line, magic))
		r = not_a_side_file(undo, "it does not begin with \"vhdkit repair 1\"");
	while (r == 0 && !end && (length = getline(&line, &room, in)) > 0 && (uint64_t)ftello(in) < TEXT_MAX) {
		line[strcspn(line, "\n")] = '\0';
		r = line_take(undo, line, &end);
	}
	free(line);
	fclose(in);
	return r == 0 && !end ? not_a_side_file(undo, "it is not complete") : r;
}

static int saved_read(struct undo *undo, const struct record *record)
{
	int r = 0;

	memset(undo->buffer, 0, record->length);
	if (record->at)
		r = undo->file->ops->read(undo->file, undo->buffer, (size_t)record->length, record->at);
	if (r)
		return err_set(undo->err, r, "%s: reading it failed: %s", undo->side_path, strerror(-r));
	if (hash_of(undo->buffer, (size_t)record->length) != record->old)
		return not_a_side_file(undo, "what it saved is damaged (a hash does not agree)");
	return 0;
}

/* Before the first range is put back: a side file that is damaged must not be found out half way. */
static int saved_check(struct undo *undo)
{
	int r = 0;

	for (size_t i = 0; i < undo->side.count && r == 0; i++)
		r = saved_read(undo, &undo->side.records[i]);
	return r;
}

/* The image must hold, range by range, what it had before the repair or what the repair wrote. */
static int image_compare(struct undo *undo, uint64_t size)
{
	for (size_t i = 0; i < undo->side.count; i++) {
		const struct record *record = &undo->side.records[i];
		uint64_t hash;
		int r;

		if (record->offset + record->length > size)
			continue; /* cut, and now put back */
		r = undo->image->ops->read(undo->image, undo->buffer, (size_t)record->length, record->offset);
		if (r)
			return err_set(undo->err, r, "%s: reading it failed: %s", undo->path, strerror(-r));
		hash = hash_of(undo->buffer, (size_t)record->length);
		if (hash != record->old && hash != record->new)
			return err_set(undo->err, VHD_E_WOULD_LOSE, "%s: at offset %" PRIu64 " it holds neither what it had before the "
			               "repair nor what the repair wrote: it was written to since; undoing would mix the two (--force does "
			               "it all the same)", undo->path, record->offset);
	}
	return 0;
}

static int image_restore(struct undo *undo, uint64_t size)
{
	const struct store_ops *ops = undo->image->ops;
	int r = 0;

	if (size < undo->side.size)
		r = ops->truncate(undo->image, undo->side.size);
	for (size_t i = 0; i < undo->side.count && r == 0; i++) {
		const struct record *record = &undo->side.records[i];

		r = saved_read(undo, record);
		if (r)
			return r;
		r = ops->write(undo->image, undo->buffer, (size_t)record->length, record->offset);
	}
	if (r == 0)
		r = ops->sync(undo->image, STORE_BARRIER_DATA);
	if (r == 0 && size > undo->side.size)
		r = ops->truncate(undo->image, undo->side.size);
	if (r == 0)
		r = ops->sync(undo->image, STORE_BARRIER_CLOSE);
	return r ? err_set(undo->err, r, "%s: putting it back failed: %s; run it again", undo->path, strerror(-r)) : 0;
}

int vhd_repair_undo(const char *path, const char *side_file, bool force, struct err *err)
{
	struct undo undo = {.path = path, .side_path = side_file, .buffer = malloc(PIECE), .err = err};
	uint64_t size = 0;
	int r = undo.buffer ? 0 : err_set(err, -ENOMEM, "%s: no memory", path);

	if (r == 0)
		r = store_file_open(side_file, 0, &undo.file, err);
	if (r == 0)
		r = undo.file->ops->size(undo.file, &undo.side_size);
	if (r == 0)
		r = side_read(&undo);
	if (r == 0)
		r = repair_open(path, true, &undo.image, err);
	if (r == 0)
		r = undo.image->ops->size(undo.image, &size);
	if (r == 0)
		r = saved_check(&undo);
	if (r == 0)
		r = image_compare(&undo, size);
	if (r == VHD_E_WOULD_LOSE && force)
		r = 0;
	if (r == 0 && !force && size != undo.side.size && size != undo.side.becomes)
		r = err_set(err, VHD_E_WOULD_LOSE, "%s: it has %" PRIu64 " bytes, neither the %" PRIu64 " of before the repair nor "
		            "the %" PRIu64 " of after: it was written to since; undoing would mix the two (--force does it all the "
		            "same)", path, size, undo.side.size, undo.side.becomes);
	if (r == 0)
		r = image_restore(&undo, size);
	store_close(undo.image);
	store_close(undo.file);
	free(undo.side.records);
	free(undo.buffer);
	return r;
}
