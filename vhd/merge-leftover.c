/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a merge has left over that was cut off after the disk had gone on without the merged layers: their files, opened
 * now as a disk of their own, over a layer that has their Unique Id and that other disks stand on. Nothing is to be done
 * but to remove them, if nobody has written to them since; what they hold must be what the layer holds.
 */
#include "vhd/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/job.h"

#define PIECE_BYTES (1u << 20)

/* What layers `first` and below hold of the range. Upkeep's thread; nobody writes to these layers. */
static int read_layers(struct merge *m, unsigned first, uint64_t offset, uint64_t length, uint8_t *ret)
{
	while (length > 0) {
		struct map_extent e;
		int rc = 0;

		stack_map(m->stack, first, m->stack->count, offset, length, false, &e);
		if (e.kind == MAP_NEED_BITMAP) {
			rc = image_load_bitmap(m->image, e.layer, e.block, e.slot, m->err);
			if (rc)
				return rc;
			continue;
		}
		memset(ret, 0, e.length);
		if (e.kind == MAP_DATA) {
			struct store *store = atomic_load(&e.layer->file)->store;

			rc = store->ops->read(store, ret, e.length, e.file_offset);
		}
		if (rc)
			return err_set(m->err, rc, "%s: reading at offset %llu failed: %s", e.layer->layer->path,
			               (unsigned long long)e.file_offset, strerror(-rc));
		ret += e.length;
		offset += e.length;
		length -= e.length;
	}
	return 0;
}

/* Whether the layers above the target read as it does. */
static int compare(struct merge *m, uint8_t *above, uint8_t *below)
{
	uint64_t size = atomic_load(&m->target->size);
	int rc = 0;

	for (uint64_t offset = 0; rc == 0 && offset < size;) {
		uint64_t n = size - offset < PIECE_BYTES ? size - offset : PIECE_BYTES;
		struct map_extent e;

		stack_map(m->stack, m->first, m->into, offset, n, false, &e);
		if (e.kind == MAP_ZERO) { /* they hold nothing of it */
			offset += e.length;
			continue;
		}
		n = e.length < PIECE_BYTES ? e.length : PIECE_BYTES;
		rc = read_layers(m, m->first, offset, n, above);
		if (rc == 0)
			rc = read_layers(m, m->into, offset, n, below);
		if (rc == 0 && memcmp(above, below, n))
			return err_set(m->err, -EEXIST, "%s: it was merged into %s and then written to, at offset %llu or behind; since "
			               "other disks stand on that, neither can take in the other: keep what you need of it with vhd "
			               "convert, then remove it", m->stack->layer[m->first]->layer->path, m->target->layer->path,
			               (unsigned long long)offset);
		if (rc == 0 && job_step(m->options->job, n))
			rc = err_set(m->err, -ECANCELED, "%s: cancelled", m->stack->layer[m->first]->layer->path);
		offset += n;
	}
	return rc;
}

bool merge_find_leftover(struct merge *m)
{
	const struct stack *stack = m->stack;
	const struct layer *top = stack->layer[m->first]->layer;

	for (unsigned i = m->first + 1; m->first == 0 && i < stack->count; i++) {
		const struct layer *layer = stack->layer[i]->layer;

		if (layer->raw || memcmp(layer->footer.uuid, top->footer.uuid, sizeof(top->footer.uuid)))
			continue;
		if (upkeep_refuse_children(m->image, layer, NULL) != VHD_E_HAS_CHILDREN)
			return false;
		m->into = i;
		m->target = stack->layer[i];
		return true;
	}
	return false;
}

int merge_remove_leftover(struct merge *m)
{
	uint8_t *above = malloc(PIECE_BYTES), *below = malloc(PIECE_BYTES);
	int rc = above && below ? 0 : err_set(m->err, -ENOMEM, "no memory to compare what was merged");

	if (rc == 0)
		rc = compare(m, above, below);
	free(above);
	free(below);
	return rc ? rc : merge_change_names(m, m->stack->layer + m->first);
}
