/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vhd/layer-scan.h"
#include "vhd/resize-mark.h"
#include "vhd/sniff.h"

#define SHORT_FOOTER 511u

struct candidate {
	struct footer_disk disk;
	uint64_t offset;
	bool present; /* a cookie, or a poisoned one */
	int verdict;  /* of decoding, when present */
	struct footer footer;
	struct format_defect defect;
	struct err err;
};

static void candidate_decode(struct candidate *candidate)
{
	candidate->present = footer_has_cookie(&candidate->disk) || footer_is_poisoned(&candidate->disk);
	if (candidate->present)
		candidate->verdict = footer_decode_defect(&candidate->disk, false, &candidate->footer,
		                                          &candidate->defect, &candidate->err);
}

static int candidate_read(const struct layer_scan *scan, struct candidate *candidate, uint64_t offset, size_t length)
{
	int r;

	memset(candidate, 0, sizeof(*candidate));
	candidate->offset = offset;
	r = layer_read(scan->layer, &candidate->disk, length, offset);
	if (r < 0)
		return err_set(scan->scope.err, r, "%s: reading %zu bytes at %" PRIu64 " failed: %s",
		               scan->scope.path, length, offset, strerror(-r));
	candidate_decode(candidate);
	return 0;
}

static bool footer_is_killed(const struct footer_disk *disk)
{
	for (unsigned i = 0; i < sizeof(disk->cookie); i++)
		if (disk->cookie[i] != 0xC7)
			return false;
	return true;
}

static bool type_has_copy(const struct footer_disk *disk)
{
	uint32_t type = be32_get(disk->disk_type);

	return type == VHD_DYNAMIC || type == VHD_DIFFERENCING;
}

/* The footer at the end holds; says how the copy at 0 of such a disk departs from it. */
static int copy_compare(const struct layer_scan *scan, const struct candidate *end, const struct candidate *copy)
{
	const struct footer *a = &end->footer, *b = &copy->footer;

	if (!copy->present)
		return defect_report(&scan->scope, VHD_WARNING, "footer-copy-missing", VHD_E_CORRUPT, 0,
		                     "there is no copy of the footer at offset 0: if the footer at the end is lost, so is "
		                     "the disk");
	if (footer_is_poisoned(&copy->disk))
		return defect_report(&scan->scope, VHD_DAMAGE, copy->defect.code, VHD_E_CORRUPT, 0,
		                     "in the copy at offset 0, %s", copy->err.text);
	if (copy->verdict)
		return defect_report(&scan->scope, VHD_WARNING, "footer-copy-damaged", VHD_E_CORRUPT,
		                     copy->defect.field_offset,
		                     "the copy of the footer at offset 0 is damaged (%s); the one at the end counts",
		                     copy->err.text);
	if (a->current_size != b->current_size)
		return defect_report(&scan->scope, VHD_WARNING, "footer-copy-differs", VHD_E_CORRUPT, 0x30,
		                     "Current Size is %" PRIu64 " bytes in the footer at the end, which counts, and %" PRIu64
		                     " in the copy at offset 0; an interrupted resize leaves that", a->current_size,
		                     b->current_size);
	if (a->type != b->type || a->data_offset != b->data_offset || memcmp(a->uuid, b->uuid, 16))
		return defect_report(&scan->scope, VHD_WARNING, "footer-copy-differs", VHD_E_CORRUPT, 0,
		                     "the copy of the footer at offset 0 is another disk's (type, Data Offset or Unique Id "
		                     "differ); the one at the end counts");
	if (memcmp(&end->disk, &copy->disk, sizeof(end->disk)))
		return defect_report(&scan->scope, VHD_NOTE, "footer-copy-differs", VHD_E_CORRUPT, 0,
		                     "the copy of the footer at offset 0 differs in small things from the one at the end, "
		                     "which counts");
	return 0;
}

static int not_vhd(const struct layer_scan *scan, const uint8_t *start, size_t length)
{
	const char *looks = sniff_format(start, length);

	if (scan->layer->file_size == 0)
		return err_set(scan->scope.err, VHD_E_NOT_VHD, "%s: not a VHD: the file is empty", scan->scope.path);
	if (looks)
		return err_set(scan->scope.err, VHD_E_NOT_VHD, "%s: not a VHD (no footer at the end, no copy at the start): "
		               "it looks like %s", scan->scope.path, looks);
	return err_set(scan->scope.err, VHD_E_NOT_VHD, "%s: not a VHD: there is no footer (\"conectix\") at the end, nor "
	               "a copy of a dynamic disk's at the start", scan->scope.path);
}

static int end_read(const struct layer_scan *scan, struct candidate *end, enum footer_source *source)
{
	uint64_t file_size = scan->layer->file_size;
	int r = 0;

	*end = (struct candidate){.offset = file_size};
	*source = FOOTER_AT_END;
	if (file_size >= sizeof(end->disk))
		r = candidate_read(scan, end, file_size - sizeof(end->disk), sizeof(end->disk));
	if (r == 0 && !end->present && file_size >= SHORT_FOOTER) {
		struct candidate cut;

		r = candidate_read(scan, &cut, file_size - SHORT_FOOTER, SHORT_FOOTER);
		if (r == 0 && cut.present) {
			*end = cut;
			*source = FOOTER_AT_END_511;
		}
	}
	return r;
}

/* No footer decodes as it should. For salvage: the one at the end, else the copy, if all but its checksum holds. */
static int footer_salvage(struct layer_scan *scan, const struct candidate *end, const struct candidate *copy,
                          enum footer_source source)
{
	const struct candidate *damaged = end->present ? end : copy;
	struct layer *layer = scan->layer;
	int r;

	r = defect_report(&scan->scope, VHD_DAMAGE, damaged->defect.code, damaged->verdict,
	                  damaged->offset + damaged->defect.field_offset, "at offset %" PRIu64 ", %s%s", damaged->offset,
	                  damaged->err.text, end->present && type_has_copy(&end->disk)
	                  ? copy->present ? "; its copy at offset 0 is damaged too" : "; there is no copy at offset 0"
	                  : "");
	if (r)
		return r;
	layer->footer_source = end->present ? source : FOOTER_FROM_COPY;
	layer->footer_offset = damaged->offset;
	r = footer_decode(&damaged->disk, true, &layer->footer, NULL);
	if (r && damaged == end && copy->present && type_has_copy(&end->disk)) {
		layer->footer_source = FOOTER_FROM_COPY;
		layer->footer_offset = 0;
		r = footer_decode(&copy->disk, true, &layer->footer, NULL);
		if (r == 0 && layer->footer.type == VHD_FIXED)
			r = VHD_E_CORRUPT;
	}
	return r ? err_set(scan->scope.err, r, "%s: at offset %" PRIu64 ", %s", scan->scope.path, damaged->offset,
	                   damaged->err.text) : 0;
}

/*
 * A fixed disk's footer that counts although the file was made longer behind it already. Nothing else makes a file of such
 * a size, so that what a guest writes into its disk's first sector, or anywhere in a dynamic disk, is not asked. *ret:
 * whether there is one.
 */
static int growing_find(struct layer_scan *scan, bool *ret)
{
	struct layer *layer = scan->layer;
	struct candidate marked;
	uint64_t offset;
	int r;

	*ret = false;
	if (!growing_footer_offset(layer->file_size, &offset))
		return 0;
	r = candidate_read(scan, &marked, offset, sizeof(marked.disk));
	if (r || !marked.present || marked.verdict || !resize_mark_holds(&marked.footer, offset, layer->file_size))
		return r;
	*ret = true;
	layer->footer = marked.footer;
	layer->footer_source = FOOTER_GROWING;
	layer->footer_offset = offset;
	layer->size = marked.footer.current_size;
	scan->end = offset;
	return defect_report(&scan->scope, VHD_WARNING, "grow-interrupted", VHD_E_CORRUPT, offset,
	                     "the disk was to become larger when that was interrupted: its footer is still at offset %" PRIu64
	                     " and counts; opening it for writing cuts the file there again", offset);
}

int footer_find(struct layer_scan *scan)
{
	struct layer *layer = scan->layer;
	struct candidate end, copy = {0};
	enum footer_source source;
	bool copy_holds, growing;
	int r;

	r = growing_find(scan, &growing);
	if (r || growing)
		return r;
	r = end_read(scan, &end, &source);
	if (r)
		return r;
	scan->end = end.offset;
	if (!end.present)
		scan->end = layer->file_size;
	layer->footer_source = source;
	layer->footer_offset = end.offset;

	/* A fixed disk's first sector is the guest's: it is not even looked at. */
	if (end.present && end.verdict == 0 && end.footer.type == VHD_FIXED) {
		layer->footer = end.footer;
	} else {
		if (layer->file_size >= sizeof(copy.disk) && !(end.present && end.offset == 0)) {
			r = candidate_read(scan, &copy, 0, sizeof(copy.disk));
			if (r)
				return r;
		}
		if (!type_has_copy(&copy.disk))
			copy.present = false;
		copy_holds = copy.present && copy.verdict == 0;

		if (end.present && end.verdict == 0) {
			layer->footer = end.footer;
			r = end.offset == 0 ? 0 : copy_compare(scan, &end, &copy);
		} else if (end.present && (be32_get(end.disk.disk_type) == VHD_FIXED ||
		                           strcmp(end.defect.code, "footer-checksum") != 0)) {
			/* Written so on purpose, or a fixed disk's: the copy has no say. */
			r = footer_salvage(scan, &end, &copy, source);
		} else if (copy_holds) {
			layer->footer = copy.footer;
			layer->footer_source = FOOTER_FROM_COPY;
			layer->footer_offset = 0;
			r = end.present
			    ? defect_report(&scan->scope, VHD_WARNING, end.defect.code, VHD_E_CORRUPT,
			                    end.offset + end.defect.field_offset, "at offset %" PRIu64 ", %s; the copy at "
			                    "offset 0 is good and counts", end.offset, end.err.text)
			    : defect_report(&scan->scope, VHD_WARNING, "footer-missing", VHD_E_CORRUPT, end.offset,
			                    "there is no footer at the end%s; the copy at offset 0 is good and counts",
			                    footer_is_killed(&end.disk)
			                    ? " (a tapdisk that did not finish overwrote it with 0xC7)" : "");
		} else if (end.present || copy.present) {
			r = footer_salvage(scan, &end, &copy, source);
		} else {
			return not_vhd(scan, (const uint8_t *)&copy.disk,
			               layer->file_size < sizeof(copy.disk) ? 0 : sizeof(copy.disk));
		}
	}
	if (r)
		return r;

	layer->size = layer->footer.current_size;
	if (source == FOOTER_AT_END_511 && layer->footer_source == source)
		return defect_report(&scan->scope, VHD_NOTE, "footer-511", VHD_E_CORRUPT, end.offset,
		                     "the footer is 511 bytes long, as Virtual PC before 2004 wrote it");
	return 0;
}
