/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mountd/partition.h"

#define SECTORS 8192u

struct disk {
	uint8_t bytes[SECTORS * 512];
	unsigned reads;
	int fail;
};

static int disk_read(void *user, void *buffer, uint32_t length, uint64_t offset)
{
	struct disk *d = user;

	d->reads++;
	if (d->fail)
		return d->fail;
	assert_true(offset <= sizeof(d->bytes) && length <= sizeof(d->bytes) - offset);
	memcpy(buffer, d->bytes + offset, length);
	return 0;
}

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct disk));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void put(uint8_t *p, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> 8 * i);
}

static void mbr_entry(struct disk *d, uint32_t sector, int slot, uint8_t type, uint32_t start, uint32_t sectors)
{
	uint8_t *s = d->bytes + sector * 512;

	s[510] = 0x55;
	s[511] = 0xaa;
	s[446 + slot * 16 + 4] = type;
	put(s + 446 + slot * 16 + 8, start, 4);
	put(s + 446 + slot * 16 + 12, sectors, 4);
}

static uint32_t crc(const uint8_t *p, size_t n)
{
	uint32_t c = ~0u;

	while (n--) {
		c ^= *p++;
		for (int i = 0; i < 8; i++)
			c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
	}
	return ~c;
}

static void gpt_seal(struct disk *d, uint32_t header, uint32_t entries, uint32_t count, uint32_t size)
{
	uint8_t *h = d->bytes + header * 512;

	memcpy(h, "EFI PART\0\0\1\0", 12);
	put(h + 12, 92, 4);
	put(h + 24, header, 8);
	put(h + 32, header == 1 ? SECTORS - 1 : 1, 8);
	put(h + 40, 34, 8);
	put(h + 48, SECTORS - 34, 8);
	put(h + 72, entries, 8);
	put(h + 80, count, 4);
	put(h + 84, size, 4);
	put(h + 88, (uint64_t)count * size <= 16384 ? crc(d->bytes + entries * 512, count * size) : 0, 4);
	put(h + 16, 0, 4);
	put(h + 16, crc(h, 92), 4);
}

static void gpt_entry(struct disk *d, uint32_t entries, int slot, uint64_t first, uint64_t last, const char *name)
{
	static const uint8_t linux_guid[16] = {0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
	                                       0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4};
	uint8_t *e = d->bytes + entries * 512 + slot * 128;

	memcpy(e, linux_guid, 16);
	put(e + 32, first, 8);
	put(e + 40, last, 8);
	for (int i = 0; name[i]; i++)
		put(e + 56 + 2 * i, (uint8_t)name[i], 2);
}

static void gpt_make(struct disk *d)
{
	mbr_entry(d, 0, 0, 0xee, 1, SECTORS - 1);
	gpt_entry(d, 2, 0, 2048, 4095, "one");
	gpt_entry(d, 2, 4, 4096, 6143, "five");
	memcpy(d->bytes + (SECTORS - 33) * 512, d->bytes + 2 * 512, 16384);
	gpt_seal(d, 1, 2, 128, 128);
	gpt_seal(d, SECTORS - 1, SECTORS - 33, 128, 128);
}

static int parse(struct disk *d, struct partition_table *t)
{
	struct err err;

	return partition_table_read(disk_read, d, sizeof(d->bytes), t, &err);
}

static void an_empty_disk_has_no_table(void **state)
{
	struct partition_table t;

	assert_int_equal(parse(*state, &t), 0);
	assert_int_equal(t.scheme, PARTITION_NONE);
	assert_int_equal(t.count, 0);
	assert_true(partition_table_touched(&t, 0, 1));
	assert_false(partition_table_touched(&t, 512, 512));
	partition_table_done(&t);
}

static void primary_partitions_keep_their_numbers(void **state)
{
	struct partition_table t;

	mbr_entry(*state, 0, 1, 0x83, 2048, 1000);
	mbr_entry(*state, 0, 3, 0x07, 4096, 1000);
	assert_int_equal(parse(*state, &t), 0);
	assert_int_equal(t.scheme, PARTITION_MBR);
	assert_int_equal(t.count, 2);
	assert_int_equal(t.entries[0].number, 2);
	assert_int_equal(t.entries[0].offset, 2048 * 512);
	assert_int_equal(t.entries[0].length, 1000 * 512);
	assert_string_equal(partition_type_name(&t, &t.entries[0]), "Linux");
	assert_int_equal(t.entries[1].number, 4);
	partition_table_done(&t);
}

static void logical_partitions_count_from_five(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	mbr_entry(d, 0, 0, 0x83, 64, 64);
	mbr_entry(d, 0, 1, 0x0f, 1024, 4096);
	mbr_entry(d, 1024, 0, 0x83, 8, 500);
	mbr_entry(d, 1024, 1, 0x05, 1000, 600);
	mbr_entry(d, 2024, 0, 0x82, 8, 300);
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.count, 3);
	assert_int_equal(t.entries[1].number, 5);
	assert_int_equal(t.entries[1].offset, 1032 * 512);
	assert_int_equal(t.entries[2].number, 6);
	assert_int_equal(t.entries[2].offset, 2032 * 512);
	assert_false(t.chain_cut);
	assert_true(partition_table_touched(&t, 2024 * 512 + 100, 1));
	partition_table_done(&t);
}

static void a_chain_of_logical_partitions_that_loops_is_cut(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	mbr_entry(d, 0, 0, 0x05, 1024, 4096);
	mbr_entry(d, 1024, 0, 0x83, 8, 500);
	mbr_entry(d, 1024, 1, 0x05, 1000, 600);
	mbr_entry(d, 2024, 0, 0x83, 8, 300);
	mbr_entry(d, 2024, 1, 0x05, 1000, 600); /* itself */
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.count, 2);
	assert_true(t.chain_cut);
	assert_true(d->reads < 10);
	partition_table_done(&t);
}

static void a_chain_that_leaves_its_extended_partition_is_cut(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	mbr_entry(d, 0, 0, 0x05, 1024, 1024);
	mbr_entry(d, 1024, 0, 0x83, 8, 500);
	mbr_entry(d, 1024, 1, 0x05, 0xfffffff0u, 600);
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.count, 1);
	assert_true(t.chain_cut);
	partition_table_done(&t);
}

static void a_chain_longer_than_the_limit_is_cut(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	mbr_entry(d, 0, 0, 0x05, 16, SECTORS - 16);
	for (unsigned i = 0; i < 300; i++) {
		mbr_entry(d, 16 + i * 8, 0, 0x83, 1, 7);
		mbr_entry(d, 16 + i * 8, 1, 0x05, (i + 1) * 8, 8);
	}
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.count, PARTITION_LOGICAL_MAX);
	assert_true(t.chain_cut);
	partition_table_done(&t);
}

static void a_logical_partition_beyond_its_extended_one_is_marked(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	mbr_entry(d, 0, 0, 0x05, 1024, 1024);
	mbr_entry(d, 1024, 0, 0x83, 8, 2000);
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.count, 1);
	assert_int_equal(t.entries[0].problem, PARTITION_OUTSIDE);
	assert_int_equal(t.entries[0].length, 0);
	partition_table_done(&t);
}

static void a_partition_beyond_the_disk_is_marked(void **state)
{
	struct partition_table t;

	mbr_entry(*state, 0, 0, 0x83, 2048, 0xffffffffu);
	mbr_entry(*state, 0, 1, 0x83, SECTORS, 1);
	mbr_entry(*state, 0, 2, 0x83, SECTORS - 1, 1);
	assert_int_equal(parse(*state, &t), 0);
	assert_int_equal(t.entries[0].problem, PARTITION_OUTSIDE);
	assert_int_equal(t.entries[1].problem, PARTITION_OUTSIDE);
	assert_int_equal(t.entries[2].problem, PARTITION_OK);
	partition_table_done(&t);
}

static void overlapping_partitions_are_both_marked(void **state)
{
	struct partition_table t;

	mbr_entry(*state, 0, 0, 0x83, 1000, 4000);
	mbr_entry(*state, 0, 1, 0x83, 1500, 100);
	mbr_entry(*state, 0, 2, 0x83, 4999, 10);
	mbr_entry(*state, 0, 3, 0x83, 5009, 10);
	assert_int_equal(parse(*state, &t), 0);
	assert_int_equal(t.entries[0].problem, PARTITION_OVERLAPS);
	assert_int_equal(t.entries[1].problem, PARTITION_OVERLAPS);
	assert_int_equal(t.entries[2].problem, PARTITION_OVERLAPS);
	assert_int_equal(t.entries[3].problem, PARTITION_OK);
	partition_table_done(&t);
}

static void the_boot_sector_of_a_file_system_is_no_table(void **state)
{
	static const struct {
		unsigned at;
		const char *text;
	} kinds[] = {{3, "NTFS    "}, {3, "EXFAT   "}, {0x36, "FAT16   "}, {0x52, "FAT32   "}};
	struct disk *d = *state;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct partition_table t;

		memset(d->bytes, 0, 512);
		mbr_entry(d, 0, 0, 0x83, 64, 64);
		memcpy(d->bytes + kinds[i].at, kinds[i].text, 8);
		assert_int_equal(parse(d, &t), 0);
		assert_int_equal(t.scheme, PARTITION_NONE);
		partition_table_done(&t);
	}
}

static void boot_code_in_the_place_of_entries_is_no_table(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	memset(d->bytes + 400, 0x41, 100);
	d->bytes[510] = 0x55;
	d->bytes[511] = 0xaa;
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.scheme, PARTITION_NONE);
	partition_table_done(&t);
}

static void gpt_partitions_have_names_and_numbers(void **state)
{
	struct partition_table t;

	gpt_make(*state);
	assert_int_equal(parse(*state, &t), 0);
	assert_int_equal(t.scheme, PARTITION_GPT);
	assert_false(t.from_backup);
	assert_int_equal(t.count, 2);
	assert_int_equal(t.entries[0].number, 1);
	assert_int_equal(t.entries[0].offset, 2048 * 512);
	assert_int_equal(t.entries[0].length, 2048 * 512);
	assert_string_equal(t.entries[0].name, "one");
	assert_int_equal(t.entries[1].number, 5);
	assert_string_equal(t.entries[1].name, "five");
	assert_string_equal(partition_type_name(&t, &t.entries[1]), "Linux");
	partition_table_done(&t);
}

static void a_gpt_with_a_damaged_primary_is_read_from_its_backup(void **state)
{
	static const unsigned damage[] = {512 + 17, 512 + 73, 1024 + 40, 512};
	struct disk *d = *state;

	for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
		struct partition_table t;

		memset(d->bytes, 0, sizeof(d->bytes));
		gpt_make(d);
		d->bytes[damage[i]] ^= 1;
		assert_int_equal(parse(d, &t), 0);
		assert_true(t.from_backup);
		assert_int_equal(t.count, 2);
		partition_table_done(&t);
	}
}

static void a_gpt_damaged_twice_is_refused(void **state)
{
	struct disk *d = *state;
	struct partition_table t;
	struct err err;

	gpt_make(d);
	d->bytes[512 + 17] ^= 1;
	d->bytes[(SECTORS - 1) * 512 + 17] ^= 1;
	assert_int_equal(partition_table_read(disk_read, d, sizeof(d->bytes), &t, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "both its copies"));
}

static void a_gpt_with_absurd_counts_is_refused_without_reading_far(void **state)
{
	static const uint32_t counts[][2] = {
		{0xffffffffu, 128}, {PARTITION_GPT_MAX_ENTRIES + 1, 128}, {128, 0}, {128, 127}, {128, 192},
		{128, 0x80000000u}, {0, 128}, {4096, 4096},
	};
	struct disk *d = *state;

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct partition_table t;

		memset(d->bytes, 0, sizeof(d->bytes));
		d->reads = 0;
		gpt_make(d);
		gpt_seal(d, 1, 2, counts[i][0], counts[i][1]);
		gpt_seal(d, SECTORS - 1, SECTORS - 33, counts[i][0], counts[i][1]);
		assert_int_equal(parse(d, &t), -EBADMSG);
		assert_true(d->reads <= 4);
	}
}

static void gpt_entries_outside_the_disk_are_marked(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	mbr_entry(d, 0, 0, 0xee, 1, SECTORS - 1);
	gpt_entry(d, 2, 0, 4096, 4095, "backwards");
	gpt_entry(d, 2, 1, 4096, UINT64_MAX, "endless");
	gpt_entry(d, 2, 2, 0, UINT64_MAX, "all");
	gpt_entry(d, 2, 3, SECTORS, SECTORS, "after");
	gpt_entry(d, 2, 4, 1, 100, "table");
	gpt_seal(d, 1, 2, 128, 128);
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.count, 5);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(t.entries[i].problem, PARTITION_OUTSIDE);
	assert_int_equal(t.entries[4].problem, PARTITION_OVERLAPS);
	partition_table_done(&t);
}

static void without_a_protective_mbr_an_old_gpt_is_ignored(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	gpt_make(d);
	memset(d->bytes, 0, 512);
	mbr_entry(d, 0, 0, 0x83, 2048, 100);
	assert_int_equal(parse(d, &t), 0);
	assert_int_equal(t.scheme, PARTITION_MBR);
	assert_int_equal(t.count, 1);
	partition_table_done(&t);
}

static void a_failing_read_is_forwarded(void **state)
{
	struct disk *d = *state;
	struct partition_table t;

	d->fail = -EIO;
	assert_int_equal(parse(d, &t), -EIO);
}

static void random_sectors_never_leave_the_disk(void **state)
{
	struct disk *d = *state;
	uint64_t seed = 88172645463325252u;

	for (int round = 0; round < 3000; round++) {
		struct partition_table t;
		struct err err;

		memset(d->bytes, 0, 64 * 512);
		gpt_make(d);
		for (int i = 0; i < 1 + round % 40; i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			d->bytes[(round & 1 ? 446 : 512) + seed % (round & 1 ? 64 : 92)] = (uint8_t)(seed >> 32);
		}
		if (round & 2)
			mbr_entry(d, 0, 2, 0x05, (uint32_t)(seed >> 20), (uint32_t)seed);
		if (partition_table_read(disk_read, d, sizeof(d->bytes), &t, &err) == 0) {
			for (unsigned i = 0; i < t.count; i++)
				assert_true(t.entries[i].offset + t.entries[i].length <= sizeof(d->bytes));
			partition_table_done(&t);
		}
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(an_empty_disk_has_no_table),
		CASE(primary_partitions_keep_their_numbers),
		CASE(logical_partitions_count_from_five),
		CASE(a_chain_of_logical_partitions_that_loops_is_cut),
		CASE(a_chain_that_leaves_its_extended_partition_is_cut),
		CASE(a_chain_longer_than_the_limit_is_cut),
		CASE(a_logical_partition_beyond_its_extended_one_is_marked),
		CASE(a_partition_beyond_the_disk_is_marked),
		CASE(overlapping_partitions_are_both_marked),
		CASE(the_boot_sector_of_a_file_system_is_no_table),
		CASE(boot_code_in_the_place_of_entries_is_no_table),
		CASE(gpt_partitions_have_names_and_numbers),
		CASE(a_gpt_with_a_damaged_primary_is_read_from_its_backup),
		CASE(a_gpt_damaged_twice_is_refused),
		CASE(a_gpt_with_absurd_counts_is_refused_without_reading_far),
		CASE(gpt_entries_outside_the_disk_are_marked),
		CASE(without_a_protective_mbr_an_old_gpt_is_ignored),
		CASE(a_failing_read_is_forwarded),
		CASE(random_sectors_never_leave_the_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
