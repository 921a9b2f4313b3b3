/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which footer is right. A footer whose checksum holds is what somebody wrote. One that does not hold is proven right
 * again when a change of one field makes the stored checksum hold, and believed when all that matters in it agrees with
 * the rest of the file. If none is left, the header says nearly all that a footer said.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/checked.h"
#include "vhd/create.h"
#include "vhd/repair.h"
#include "vhd/resize-mark.h"

#define COMBINED_BYTES_MAX 12u              /* 2^12 ways to take each from one of two footers */
#define SEARCH_BYTES (UINT64_C(64) << 20)   /* how much that is not zero is searched for a footer that others follow */
#define SEARCH_CHUNK (1u << 20)

struct found {
	struct footer_disk disk;
	uint64_t offset;
	bool there; /* with a cookie, or a poisoned one */
	int verdict;
	struct footer footer;
	struct format_defect defect;
	struct err why;
};

static void found_decode(struct found *found)
{
	found->there = footer_has_cookie(&found->disk) || footer_is_poisoned(&found->disk);
	found->verdict = VHD_E_CORRUPT;
	if (found->there)
		found->verdict = footer_decode_defect(&found->disk, false, &found->footer, &found->defect, &found->why);
}

static bool is_good(const struct found *found)
{
	return found->there && found->verdict == 0;
}

static int found_read(const struct repair *repair, struct found *ret, uint64_t offset, size_t length)
{
	int r;

	memset(ret, 0, sizeof(*ret));
	ret->offset = offset;
	r = repair_read(repair, &ret->disk, length, offset);
	if (r)
		return err_set(repair->err, r, "%s: reading %zu bytes at %" PRIu64 " failed: %s; copy the file to sound "
		               "storage first, and repair the copy", repair->path, length, offset, strerror(-r));
	found_decode(ret);
	return 0;
}

static bool has_copy(const struct footer *footer)
{
	return footer->type != VHD_FIXED;
}

static int plan_reset(struct repair *repair)
{
	overlay_done(&repair->plan);
	return overlay_init(&repair->plan, repair->store);
}

int repair_footer_lay(struct repair *repair)
{
	struct footer_disk disk;
	int r = overlay_resize(&repair->plan, repair->end);

	/* Zeros at the end, so that nothing a guest wrote there passes for a footer. */
	if (r == 0)
		r = overlay_resize(&repair->plan, round_up(repair->end, VHD_SECTOR) + VHD_SECTOR);
	if (r || !repair->copy_needed)
		return r;
	footer_encode(&repair->footer, &disk);
	return overlay_write(&repair->plan, &disk, sizeof(disk), 0, PHASE_COPY);
}

/* How damaged the file would be if this footer counted. */
static unsigned damages_with(struct repair *repair, const struct footer *footer, int *ret_error)
{
	struct footer before = repair->footer;
	bool copy_needed = repair->copy_needed;
	unsigned damages = UINT_MAX;
	int r;

	repair->footer = *footer;
	repair->copy_needed = true;
	r = repair_footer_lay(repair);
	if (r == 0)
		damages = repair_damages(repair);
	repair->footer = before;
	repair->copy_needed = copy_needed;
	if (r == 0)
		r = plan_reset(repair);
	*ret_error = r;
	return damages;
}

static int take_end(struct repair *repair, const struct found *end, const struct found *copy)
{
	const struct footer *a = &end->footer, *b = &copy->footer;
	int r = 0;

	repair->footer = *a;
	repair->end_is_footer = true;
	if (!has_copy(a))
		return 0;
	if (is_good(copy) && a->current_size == b->current_size && a->type == b->type &&
	    a->data_offset == b->data_offset && !memcmp(a->uuid, b->uuid, 16))
		return 0;
	if (is_good(copy) && has_copy(b)) {
		unsigned with_end = damages_with(repair, a, &r), with_copy = r ? 0 : damages_with(repair, b, &r);

		if (r)
			return repair_no_memory(repair);
		if (with_copy < with_end) {
			repair->footer = *b;
			repair->end_is_footer = false;
			return repair_step(repair, "footer-copy-differs", end->offset,
			                   "the footers at the end and at offset 0 are both good and differ; the file is as the one at "
			                   "offset 0 says, which becomes the one at the end too");
		}
	}
	repair->copy_needed = true;
	return repair_step(repair, !copy->there ? "footer-copy-missing" : is_good(copy) ? "footer-copy-differs"
	                   : "footer-copy-damaged", 0, "the copy of the footer at offset 0 is written anew, from the footer at "
	                   "the end");
}

static int take_copy(struct repair *repair, const struct found *end, const struct found *copy)
{
	bool same = !memcmp(end->disk.uuid, copy->disk.uuid, 16);

	if (end->there && !same && !strcmp(end->defect.code, "footer-checksum") == 0)
		return repair_refuse(repair, end->defect.code, end->offset, "the footer at the end is another disk's than its copy "
		                     "at offset 0, and cannot be right either (%s): which of the two disks this is cannot be told",
		                     end->why.text);
	repair->footer = copy->footer;
	return repair_step(repair, end->there ? end->defect.code : "footer-missing", end->offset,
	                   "the footer at the end is written anew, from its good copy at offset 0");
}

static bool header_has_parent(const struct header *header)
{
	static const uint8_t none[16];

	return memcmp(header->parent_uuid, none, 16) || be16_get(header->raw.parent_name[0]);
}

/*
 * Whether the header is where the footer says, the disk has as many blocks as the header has entries, and both speak of
 * a parent or neither does.
 */
static bool header_agrees(struct repair *repair, const struct footer *footer)
{
	struct header_disk disk;
	struct header header;

	return repair_read(repair, &disk, sizeof(disk), footer->data_offset) == 0 &&
	       header_decode(&disk, false, &header, NULL) == 0 &&
	       (footer->type == VHD_DIFFERENCING) == header_has_parent(&header) &&
	       (footer->current_size + header.block_size - 1) / header.block_size == header.max_table_entries;
}

/* Whether what matters of a footer at `offset` agrees with the file. */
static bool agrees(struct repair *repair, const struct footer *footer, uint64_t offset)
{
	if (footer->type == VHD_FIXED)
		return offset > 0 && footer->current_size == offset;
	return header_agrees(repair, footer);
}

static bool holds(const struct footer_disk *disk, struct footer *ret)
{
	return footer_decode(disk, false, ret, NULL) == 0;
}

#define VARIANTS 14u

/* The n-th way in which one field may have been changed; false: it does not differ from what is there. */
static bool variant_make(const struct found *found, const struct identity *identity, unsigned n,
                         struct footer_disk *ret)
{
	struct footer_disk disk = found->disk;

	memcpy(disk.cookie, "conectix", 8);
	switch (n) {
	case 0: break;
	case 1: disk.version = be32_make(0x00010000); break;
	case 2: disk.features = be32_make(2); break;
	case 3: disk.current_size = disk.original_size; break;
	case 4: disk.original_size = disk.current_size; break;
	case 5: disk.current_size = be64_make(found->offset); break;
	case 6: disk.disk_type = be32_make(VHD_FIXED); break;
	case 7: disk.disk_type = be32_make(VHD_DYNAMIC); break;
	case 8: disk.disk_type = be32_make(VHD_DIFFERENCING); break;
	case 9: disk.data_offset = be64_make(VHD_NO_OFFSET); break;
	case 10: disk.data_offset = be64_make(VHD_SECTOR); break;
	case 11: memset(disk.reserved, 0, sizeof(disk.reserved)); break;
	case 12: disk.saved_state = 0; break;
	default:
		if (!identity->known)
			return false;
		memcpy(disk.uuid, identity->uuid, sizeof(disk.uuid));
	}
	*ret = disk;
	return n == 0 || memcmp(&disk, &found->disk, sizeof(disk));
}

/* Whether the n-th variant changes something that the disk depends on. */
static bool matters(unsigned n)
{
	return n == 3 || (n >= 5 && n <= 10);
}

/* The checksum does not hold, but everything that the disk depends on is right. */
static bool believe(struct repair *repair, const struct found *found, struct footer *ret)
{
	struct footer_disk disk = found->disk;
	unsigned same = 0;

	for (unsigned i = 0; i < sizeof(disk.cookie); i++)
		same += disk.cookie[i] == (uint8_t)"conectix"[i];
	if (same < 4)
		return false;
	memcpy(disk.cookie, "conectix", 8);
	return footer_decode(&disk, true, ret, NULL) == 0 && (has_copy(ret) || found->offset != 0) &&
	       agrees(repair, ret, found->offset);
}

/*
 * One field was changed, and putting it right makes the checksum hold. A sum of bytes holds by chance now and then: what
 * matters is left as it is when it agrees with the file.
 */
static bool prove_alone(struct repair *repair, const struct found *found, const struct identity *identity,
                        struct footer *ret)
{
	bool agreed = believe(repair, found, ret);
	struct footer_disk disk;

	for (unsigned n = 0; n < VARIANTS; n++)
		if (!(agreed && matters(n)) && variant_make(found, identity, n, &disk) && holds(&disk, ret) &&
		    (ret->type != VHD_FIXED || found->offset != 0) && agrees(repair, ret, found->offset))
			return true;
	return false;
}

/* Both are damaged, in different bytes: each byte is right in one of them. */
static bool prove_together(struct repair *repair, const struct found *a, const struct found *b, struct footer *ret)
{
	const uint8_t *x = (const uint8_t *)&a->disk, *y = (const uint8_t *)&b->disk;
	unsigned differ[COMBINED_BYTES_MAX], count = 0;

	for (unsigned i = 0; i < sizeof(a->disk); i++) {
		if (x[i] == y[i])
			continue;
		if (count == COMBINED_BYTES_MAX)
			return false;
		differ[count++] = i;
	}
	for (unsigned choice = 0; choice < 1u << count; choice++) {
		struct footer_disk disk = a->disk;

		for (unsigned i = 0; i < count; i++)
			if (choice >> i & 1)
				((uint8_t *)&disk)[differ[i]] = y[differ[i]];
		if (holds(&disk, ret) && has_copy(ret) && header_agrees(repair, ret))
			return true;
	}
	return false;
}

static int take_restored(struct repair *repair, const struct found *found, const struct footer *footer, bool proven)
{
	uint64_t offset = found->offset + (found->there ? found->defect.field_offset : 0);

	repair->footer = *footer;
	repair->copy_needed = has_copy(footer);
	repair->end_is_footer = false;
	return repair_step(repair, found->there ? found->defect.code : "footer-cookie", offset, "%s",
	                   proven ? "the footer is restored; its checksum proves what it was"
	                   : "the footer's checksum is renewed: everything that the disk depends on is right in it; which byte "
	                     "was changed cannot be told (it may be one of the Unique Id, the times or the creator)");
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && !memcmp(bytes, bytes + 1, length - 1);
}

/* The last good footer of the file that says where it stands: whatever follows it was not there when it was written. */
static int footer_search(struct repair *repair, struct footer *ret, uint64_t *ret_offset)
{
	uint64_t at = round_up(repair->plan.file_size, SEARCH_CHUNK), searched = 0;
	uint8_t *chunk = malloc(SEARCH_CHUNK);
	int r = chunk ? 1 : -ENOMEM;

	while (r == 1 && at > 0 && searched < SEARCH_BYTES) {
		uint64_t length;
		int read;

		at -= SEARCH_CHUNK;
		length = repair->plan.file_size - at < SEARCH_CHUNK ? repair->plan.file_size - at : SEARCH_CHUNK;
		read = repair_read(repair, chunk, (size_t)length, at);
		if (read || is_zero(chunk, (size_t)length)) {
			r = read ? read : r;
			continue;
		}
		searched += length;
		for (uint64_t i = length / VHD_SECTOR; i-- > 0 && r == 1;) {
			const struct footer_disk *disk = (const struct footer_disk *)(chunk + i * VHD_SECTOR);
			uint64_t offset = at + i * VHD_SECTOR;

			if (offset == 0 || !footer_has_cookie(disk) || !holds(disk, ret))
				continue;
			/* A fixed disk whose file grew while it was repaired has nothing but zeros behind its old footer. */
			if (ret->type != VHD_FIXED ? header_agrees(repair, ret)
			    : ret->current_size == offset ||
			      (ret->current_size > offset && searched == length &&
			       (i + 1 == length / VHD_SECTOR ||
			        is_zero(chunk + (i + 1) * VHD_SECTOR, (size_t)(length - (i + 1) * VHD_SECTOR))))) {
				*ret_offset = offset;
				r = 0;
			}
		}
	}
	free(chunk);
	return r;
}

/* Whether enough of a damaged footer is left to take its less important fields from it. */
static bool is_remnant(const struct found *found, uint64_t header_offset)
{
	unsigned points = 0;

	points += footer_has_cookie(&found->disk);
	points += be32_get(found->disk.version) == 0x00010000;
	points += be32_get(found->disk.features) == 2;
	points += be64_get(found->disk.data_offset) == header_offset;
	points += be32_get(found->disk.disk_type) == VHD_DYNAMIC || be32_get(found->disk.disk_type) == VHD_DIFFERENCING;
	return points >= 3;
}

static bool size_fits(uint64_t size, const struct header *header)
{
	return size && size % VHD_SECTOR == 0 && size <= VHD_MAX_SIZE &&
	       (size + header->block_size - 1) / header->block_size == header->max_table_entries;
}

static uint64_t size_choose(const struct found *remnant, const struct header *header, const char **ret_why)
{
	uint64_t size = (uint64_t)header->max_table_entries * header->block_size;

	if (remnant && size_fits(be64_get(remnant->disk.current_size), header)) {
		*ret_why = "as the damaged footer says";
		return be64_get(remnant->disk.current_size);
	}
	if (remnant && size_fits(be64_get(remnant->disk.original_size), header)) {
		*ret_why = "the damaged footer's Original Size";
		return be64_get(remnant->disk.original_size);
	}
	*ret_why = "what the BAT has entries for: the disk may have been up to a block smaller";
	return size < VHD_MAX_SIZE ? size : VHD_MAX_SIZE;
}

static int random_uuid(uint8_t ret[16])
{
	if (getrandom(ret, 16, 0) != 16)
		return -EIO;
	ret[6] = (ret[6] & 0x0F) | 0x40;
	ret[8] = (ret[8] & 0x3F) | 0x80;
	return 0;
}

static void footer_fill(const struct repair *repair, struct footer *footer, enum vhd_type type, uint64_t size)
{
	struct stat st;

	if (footer->creator[0] == 0) {
		memcpy(footer->creator, "win ", 4);
		footer->creator_version = 0x00060001;
		memcpy(footer->creator_os, "Wi2k", 4);
	}
	footer->features = 2;
	footer->type = type;
	footer->current_size = size;
	if (footer->original_size == 0 || footer->original_size % VHD_SECTOR || footer->original_size > VHD_MAX_SIZE)
		footer->original_size = size;
	footer->geometry = geometry_for_size(size);
	if (footer->time_stamp == 0 && fstat(repair->store->file.fd, &st) == 0)
		footer->time_stamp = time_stamp_from_unix(st.st_mtime);
}

static int uuid_choose(struct repair *repair, const struct found *remnant, const struct identity *identity,
                       struct footer *footer, char *why, size_t why_size)
{
	static const uint8_t none[16];
	struct err text;

	if (identity->known) {
		memcpy(footer->uuid, identity->uuid, 16);
		err_set(&text, 0, "the one that %s, which stands on it, recorded", identity->child);
	} else if (remnant && memcmp(remnant->disk.uuid, none, 16)) {
		memcpy(footer->uuid, remnant->disk.uuid, 16);
		err_set(&text, 0, "from the damaged footer");
	} else {
		int r = random_uuid(footer->uuid);

		if (r)
			return err_set(repair->err, r, "%s: no random numbers for a Unique Id", repair->path);
		err_set(&text, 0, "a new one: disks that stand on it will need vhd check --repair --parent FILE --force");
	}
	strncpy(why, text.text, why_size - 1);
	why[why_size - 1] = '\0';
	return 0;
}

/* No footer, but a good header. 1: none either. */
static int rebuild_from_header(struct repair *repair, const struct found *end, const struct found *copy,
                               const struct identity *identity)
{
	const struct found *remnant = NULL;
	struct table_judgement table;
	struct footer footer = {0};
	const char *size_why;
	struct header header;
	char uuid_why[400];
	uint64_t offset;
	int r;

	r = header_search(repair, &header, &offset);
	if (r && offset)
		return repair_refuse(repair, "footer-missing", 0, "both footers are lost, and the header at offset %" PRIu64
		                     ", which could say what they were, is damaged too", offset);
	if (r)
		return r;
	if (is_remnant(copy, offset))
		remnant = copy;
	if (is_remnant(end, offset) && (!remnant || size_fits(be64_get(end->disk.current_size), &header)))
		remnant = end;
	if (remnant && footer_decode(&remnant->disk, true, &footer, NULL))
		footer = (struct footer){0};
	footer_fill(repair, &footer, header_has_parent(&header) ? VHD_DIFFERENCING : VHD_DYNAMIC,
	            size_choose(remnant, &header, &size_why));
	footer.data_offset = offset;
	r = table_judge(repair, &header, offset, footer.current_size, &table);
	if (r)
		return repair_no_memory(repair);
	if (!table.inside || (table.bad && table.bad >= table.used))
		return 1;
	r = uuid_choose(repair, remnant, identity, &footer, uuid_why, sizeof(uuid_why));
	if (r)
		return r;
	repair->footer = footer;
	repair->copy_needed = true;
	return repair_step(repair, "footer-missing", 0, "both footers are rebuilt from the header at offset %" PRIu64
	                   " and the BAT: a %s disk of %" PRIu64 " bytes (%s); its Unique Id is %s", offset,
	                   vhd_type_name(footer.type), footer.current_size, size_why, uuid_why);
}

static int take_searched(struct repair *repair, const struct footer *footer, uint64_t offset)
{
	repair->footer = *footer;
	repair->end = offset;
	repair->end_is_footer = true;
	repair->copy_needed = has_copy(footer);
	return repair_step(repair, "trailing-garbage", offset + VHD_SECTOR, "%" PRIu64 " bytes follow the footer at offset %"
	                   PRIu64 ", which belongs at the file's end: they are cut off",
	                   repair->plan.file_size - offset - VHD_SECTOR, offset);
}

/* A fixed disk without a trace of its footer looks like any other file. */
static int rebuild_fixed(struct repair *repair, const struct identity *identity)
{
	uint64_t size = round_up(repair->plan.file_size, VHD_SECTOR);
	struct footer footer = {.data_offset = VHD_NO_OFFSET};
	char why[400];
	int r;

	if (!repair->options->force || repair->options->parent || size == 0 || size > VHD_MAX_SIZE) {
		err_set(repair->err, VHD_E_NOT_VHD, "%s: not a VHD, or nothing is left to tell: no footer, no copy of one and no "
		        "header were found. If it is what remains of a fixed disk, --force gives it a footer for its %" PRIu64
		        " bytes", repair->path, size);
		return VHD_E_NOT_VHD;
	}
	footer_fill(repair, &footer, VHD_FIXED, size);
	r = uuid_choose(repair, NULL, identity, &footer, why, sizeof(why));
	if (r)
		return r;
	repair->footer = footer;
	repair->end = size;
	return repair_step(repair, "footer-missing", size, "taken for a fixed disk of %" PRIu64 " bytes, all that the file "
	                   "holds, and given a footer; its Unique Id is %s", size, why);
}

/* `fixed`: the footer at the end says so, and what the guest owns is not looked at. */
static int rebuild(struct repair *repair, const struct found *end, const struct found *copy, bool fixed)
{
	struct footer footer, searched;
	struct identity identity;
	uint64_t offset = 0;
	int r, search;

	if (footer_is_poisoned(&end->disk) || footer_is_poisoned(&copy->disk))
		return repair_refuse(repair, "footer-resize-journal", end->offset, "a resize by vhd-util was interrupted: finish "
		                     "or undo it with the tool that began it (vhd-util revert); nothing else knows its journal");
	r = identity_find(repair, &identity);
	if (r)
		return repair_no_memory(repair);
	if (prove_alone(repair, end, &identity, &footer))
		return take_restored(repair, end, &footer, true);
	if (prove_alone(repair, copy, &identity, &footer))
		return take_restored(repair, copy, &footer, true);
	if (prove_together(repair, end, copy, &footer))
		return take_restored(repair, end, &footer, true);
	if (believe(repair, end, &footer))
		return take_restored(repair, end, &footer, false);
	if (believe(repair, copy, &footer))
		return take_restored(repair, copy, &footer, false);
	search = footer_search(repair, &searched, &offset);
	if (search < 0)
		return err_set(repair->err, search, "%s: searching it for a footer failed: %s", repair->path, strerror(-search));
	if (search == 0 && has_copy(&searched))
		return take_searched(repair, &searched, offset);
	r = fixed ? 1 : rebuild_from_header(repair, end, copy, &identity);
	if (r == 0 && search == 0 && !repair->refused)
		return repair_refuse(repair, "footer-missing", offset, "there are a fixed disk's footer at offset %" PRIu64
		                     " and a dynamic disk's header: which of the two it is cannot be told", offset);
	if (r != 1)
		return r;
	if (search == 0)
		return take_searched(repair, &searched, offset);
	if (end->there || copy->there)
		return repair_refuse(repair, end->there ? end->defect.code : copy->defect.code,
		                     end->there ? end->offset : 0, "%s; nothing else in the file says what the footer was (no "
		                     "copy of it, and no header that agrees with it)", end->there ? end->why.text : copy->why.text);
	return rebuild_fixed(repair, &identity);
}

/* A fixed disk whose growth was interrupted: the file is cut where its footer counts already. 1: it is none. */
static int take_growing(struct repair *repair)
{
	struct found found;
	uint64_t offset;
	int r;

	if (!growing_footer_offset(repair->plan.file_size, &offset))
		return 1;
	r = found_read(repair, &found, offset, VHD_SECTOR);
	if (r || !is_good(&found) || !resize_mark_holds(&found.footer, offset, repair->plan.file_size))
		return r ? r : 1;
	repair->footer = found.footer;
	repair->end = offset;
	repair->end_is_footer = true; /* with its mark, which says nothing of a file that ends here */
	return repair_step(repair, "grow-interrupted", offset, "the disk was to become larger when that was interrupted: the "
	                   "file is cut behind its footer at offset %" PRIu64 " again", offset);
}

int repair_footers(struct repair *repair)
{
	uint64_t size = repair->plan.file_size;
	struct found end = {.offset = size}, copy = {.verdict = VHD_E_CORRUPT};
	bool fixed;
	int r = take_growing(repair);

	if (r != 1)
		return r;
	r = 0;
	if (size >= VHD_SECTOR)
		r = found_read(repair, &end, size - VHD_SECTOR, VHD_SECTOR);
	if (r == 0 && !end.there && size >= VHD_SECTOR) {
		struct found cut;

		r = found_read(repair, &cut, size - VHD_SECTOR + 1, VHD_SECTOR - 1);
		if (r == 0 && cut.there)
			end = cut;
	}
	if (r == 0 && size >= VHD_SECTOR && end.offset != 0)
		r = found_read(repair, &copy, 0, VHD_SECTOR);
	if (r)
		return r;
	if (is_good(&copy) && !has_copy(&copy.footer))
		copy.there = false;
	repair->end = end.there ? end.offset : size;

	/* Not even a good copy counts beside a damaged footer that says fixed, unless it is of the same disk. */
	fixed = end.there && !is_good(&end) && be32_get(end.disk.disk_type) == VHD_FIXED &&
	        memcmp(end.disk.uuid, copy.disk.uuid, sizeof(end.disk.uuid)) != 0;
	if (fixed)
		copy = (struct found){.verdict = VHD_E_CORRUPT};
	if (is_good(&end))
		r = take_end(repair, &end, &copy);
	else if (is_good(&copy))
		r = take_copy(repair, &end, &copy);
	else
		r = 1;
	if (r == 1)
		r = rebuild(repair, &end, &copy, fixed);
	if (r || repair->refused)
		return r;
	if (repair->footer.saved_state && repair->options->clear_saved_state) {
		repair->footer.saved_state = false;
		repair->copy_needed = has_copy(&repair->footer);
		repair->end_is_footer = false;
		r = repair_step(repair, "saved-state", repair->end + 0x54, "the mark that a virtual machine in a saved state needs "
		                "this disk as it is, is taken away");
	}
	if (r == 0 && has_copy(&repair->footer)) {
		r = repair_footer_lay(repair);
		if (r)
			return repair_no_memory(repair);
	}
	return r;
}

int repair_fixed(struct repair *repair)
{
	uint64_t size = repair->footer.current_size, file_size = repair->plan.file_size;
	uint8_t zeros[VHD_SECTOR] = {0};
	struct footer_disk disk;
	int r = 0;

	if (repair->end_is_footer && size <= repair->end && file_size - repair->end <= VHD_SECTOR)
		return 0;
	if (size > repair->end) {
		r = repair_step(repair, "file-truncated", repair->end, "of %" PRIu64 " bytes only %" PRIu64 " are there: the file "
		                "gets its size back, and what is missing reads as zeros", size, repair->end);
		if (r == 0)
			r = repair_lose(repair, repair->end, size - repair->end, false, "the file was cut off here");
		/* The footer moves to the end; where it was belongs to the disk. */
		if (r == 0 && overlay_write(&repair->plan, zeros, file_size - repair->end < VHD_SECTOR
		                            ? (size_t)(file_size - repair->end) : VHD_SECTOR, repair->end, PHASE_LAST))
			r = repair_no_memory(repair);
		if (r == 0)
			repair->end = size;
	}
	if (r)
		return r;
	footer_encode(&repair->footer, &disk);
	if (overlay_write(&repair->plan, &disk, sizeof(disk), repair->end, PHASE_END) ||
	    overlay_resize(&repair->plan, repair->end + VHD_SECTOR))
		return repair_no_memory(repair);
	return 0;
}
