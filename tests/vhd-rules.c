/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vhd-rules FILE...: the rules that blktap's "vhd-util check" holds images to, and a few that Azure adds, as facts
 * written down anew and without a line of the engine. Prints each rule that a file breaks; exit 1 if any does.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct file {
	const char *path;
	int fd;
	uint64_t size;
	unsigned broken;
};

struct range {
	uint64_t start, end;
};

static void broken(struct file *f, const char *format, ...)
{
	va_list args;

	printf("%s: ", f->path);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	f->broken++;
}

static bool get(struct file *f, void *buffer, size_t length, uint64_t offset)
{
	if (pread(f->fd, buffer, length, (off_t)offset) == (ssize_t)length)
		return true;
	broken(f, "%zu bytes at %" PRIu64 " are not there", length, offset);
	return false;
}

static uint64_t number(const uint8_t *bytes, unsigned width)
{
	uint64_t value = 0;

	while (width--)
		value = value << 8 | *bytes++;
	return value;
}

static bool sum_holds(const uint8_t *bytes, size_t length, size_t field)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		if (i < field || i >= field + 4)
			sum += bytes[i];
	return (uint32_t)~sum == number(bytes + field, 4);
}

static void check_time(struct file *f, const char *what, uint64_t stamp)
{
	if (stamp + 946684800 > (uint64_t)time(NULL) + 1)
		broken(f, "the %s lies in the future", what);
}

static void check_footer(struct file *f, const uint8_t *b, const char *which)
{
	uint64_t size = number(b + 0x30, 8), type = number(b + 0x3c, 4);
	uint64_t chs = number(b + 0x38, 2) * b[0x3a] * b[0x3b] * 512;

	if (memcmp(b, "conectix", 8))
		broken(f, "the %s has no cookie", which);
	if (!sum_holds(b, 512, 0x40))
		broken(f, "the checksum of the %s is wrong", which);
	if (!(number(b + 0x08, 4) & 2))
		broken(f, "bit 1 of Features is not set in the %s", which);
	if (number(b + 0x0c, 4) != 0x00010000)
		broken(f, "the version of the %s is not 1.0", which);
	if (type < 2 || type > 4)
		broken(f, "the type in the %s is %" PRIu64, which, type);
	if (type == 2 && number(b + 0x10, 8) != UINT64_MAX)
		broken(f, "Data Offset of a fixed disk is not all ones");
	if (!size || size % 512)
		broken(f, "Current Size in the %s is %" PRIu64, which, size);
	if (chs > size)
		broken(f, "the geometry in the %s is larger (%" PRIu64 ") than the disk (%" PRIu64 ")", which, chs, size);
	if (b[0x54])
		broken(f, "Saved State is set in the %s", which);
	check_time(f, "Time Stamp", number(b + 0x18, 4));
}

static int by_start(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static void check_ranges(struct file *f, struct range *ranges, size_t count)
{
	qsort(ranges, count, sizeof(*ranges), by_start);
	for (size_t i = 0; i < count; i++) {
		if (ranges[i].end > f->size - 512)
			broken(f, "%" PRIu64 " to %" PRIu64 " reaches into the footer", ranges[i].start, ranges[i].end);
		if (i && ranges[i].start < ranges[i - 1].end)
			broken(f, "what starts at %" PRIu64 " and at %" PRIu64 " overlaps", ranges[i - 1].start, ranges[i].start);
	}
}

/* Blocks of a dynamic disk of ours have all sectors: QEMU reads whatever lies under a clear bit. */
static void check_bitmap(struct file *f, uint64_t at, uint32_t block_size, bool dynamic)
{
	uint64_t sectors = block_size / 512, bytes = (sectors + 7) / 8;
	uint8_t *map = malloc(bytes);

	if (!map || !get(f, map, bytes, at))
		abort();
	for (uint64_t s = 0; s < sectors; s++) {
		uint8_t data[512];

		if (map[s / 8] & 0x80 >> s % 8)
			continue;
		if (!get(f, data, 512, at + (bytes + 511) / 512 * 512 + s * 512))
			break;
		for (unsigned i = 0; i < 512; i++)
			if (data[i]) {
				broken(f, "sector %" PRIu64 " of the block at %" PRIu64 " is absent%s, but not zero", s, at,
				       dynamic ? "" : " from the differencing disk");
				i = 512;
				s = sectors;
			}
	}
	free(map);
}

static void check_locators(struct file *f, const uint8_t *header, bool differencing, struct range *ranges, size_t *count)
{
	unsigned found = 0;

	for (unsigned i = 0; i < 8; i++) {
		const uint8_t *l = header + 0x240 + i * 24;
		uint64_t space = number(l + 4, 4), length = number(l + 8, 4), at = number(l + 16, 8);

		if (!number(l, 4)) {
			if (space || length || at)
				broken(f, "locator %u has no code, but is not empty", i);
			continue;
		}
		if (memcmp(l, "W2ku", 4) && memcmp(l, "W2ru", 4) && memcmp(l, "MacX", 4))
			broken(f, "locator %u has a code that vhd-util refuses", i);
		if (space < 512)
			space *= 512;
		if (!length || length > space || number(l + 12, 4) || at % 512)
			broken(f, "locator %u: length %" PRIu64 ", space %" PRIu64 ", offset %" PRIu64, i, length, space, at);
		ranges[(*count)++] = (struct range){at, at + space};
		found++;
	}
	if (differencing && !found)
		broken(f, "a differencing disk without a locator");
	if (differencing && !number(header + 0x40, 2))
		broken(f, "a differencing disk without its parent's name");
	if (!differencing && found)
		broken(f, "a dynamic disk with locators");
}

static void check_sparse(struct file *f, const uint8_t *footer)
{
	uint64_t size = number(footer + 0x30, 8), header_at = number(footer + 0x10, 8);
	bool differencing = number(footer + 0x3c, 4) == 4;
	uint8_t copy[512], header[1024], *bat;
	uint64_t table_at, entries, needed, table_bytes, bitmap_bytes;
	struct range *ranges;
	uint32_t block_size;
	size_t count = 0;

	if (!get(f, copy, 512, 0) || !get(f, header, 1024, header_at))
		return;
	check_footer(f, copy, "copy");
	if (memcmp(copy, footer, 512))
		broken(f, "the footers differ");
	table_at = number(header + 0x10, 8);
	entries = number(header + 0x1c, 4);
	block_size = (uint32_t)number(header + 0x20, 4);
	if (memcmp(header, "cxsparse", 8) || !sum_holds(header, 1024, 0x24) || number(header + 0x18, 4) != 0x00010000 ||
	    number(header + 8, 8) != UINT64_MAX || table_at % 512) {
		broken(f, "cookie, checksum, version, Data Offset or Table Offset of the header is wrong");
		return;
	}
	if (block_size < 512 || block_size & (block_size - 1)) {
		broken(f, "the block size is %" PRIu32, block_size);
		return;
	}
	needed = (size + block_size - 1) / block_size;
	if (entries != needed) {
		broken(f, "Max Table Entries is %" PRIu64 " instead of %" PRIu64, entries, needed);
		return;
	}
	check_time(f, "Parent Time Stamp", number(header + 0x38, 4));

	table_bytes = (entries * 4 + 511) / 512 * 512;
	bitmap_bytes = (block_size / 512 + 4095) / 4096 * 512;
	bat = malloc(table_bytes);
	ranges = calloc(entries + 16, sizeof(*ranges));
	if (!bat || !ranges)
		abort();
	ranges[count++] = (struct range){0, 512};
	ranges[count++] = (struct range){header_at, header_at + 1024};
	ranges[count++] = (struct range){table_at, table_at + table_bytes};
	check_locators(f, header, differencing, ranges, &count);
	if (get(f, bat, table_bytes, table_at)) {
		for (uint64_t i = entries * 4; i < table_bytes; i++)
			if (bat[i] != 0xff) {
				broken(f, "the BAT is not padded with ones");
				break;
			}
		for (uint64_t i = 0; i < entries; i++) {
			uint64_t at = number(bat + i * 4, 4) * 512;

			if (number(bat + i * 4, 4) == 0xffffffff)
				continue;
			ranges[count++] = (struct range){at, at + bitmap_bytes + block_size};
			if ((at + bitmap_bytes) % 4096)
				broken(f, "the data of block %" PRIu64 " is not aligned to 4 KiB", i);
			check_bitmap(f, at, block_size, !differencing);
		}
		check_ranges(f, ranges, count);
	}
	free(bat);
	free(ranges);
}

static void check_file(struct file *f)
{
	uint8_t footer[512];
	struct stat st;

	f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &st)) {
		broken(f, "cannot be opened");
		return;
	}
	f->size = (uint64_t)st.st_size;
	if (f->size < 512 || f->size % 512) {
		broken(f, "has %" PRIu64 " bytes", f->size);
	} else if (get(f, footer, 512, f->size - 512)) {
		check_footer(f, footer, "footer");
		if (number(footer + 0x3c, 4) != 2)
			check_sparse(f, footer);
		else if (f->size != number(footer + 0x30, 8) + 512)
			broken(f, "a fixed disk's file has %" PRIu64 " bytes", f->size);
	}
	close(f->fd);
}

int main(int argc, char **argv)
{
	unsigned total = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: vhd-rules FILE...\n");
		return 2;
	}
	for (int i = 1; i < argc; i++) {
		struct file f = {.path = argv[i]};

		check_file(&f);
		total += f.broken;
	}
	return total != 0;
}
