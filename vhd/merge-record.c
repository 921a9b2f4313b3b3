/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What merged layers had changed is kept in checkpoint files beside what they were merged into, one for each layer, so
 * that the list of changes since any of their states can still be had (checkpoint.h).
 *
 * Layers that are not the leaf stay whole until the end: their records are written then. Of a leaf it is promised before
 * the first block moves, since a leaf that was drained in part, or written past, does not know any more what it had
 * changed; of a leaf in use nothing more than that not all is known, so that no list is given at all.
 */
#include "vhd/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/checkpoint.h"

static int record_of(struct merge *m, unsigned layer, struct checkpoint *ret)
{
	const struct layer *l = m->stack->layer[layer]->layer;
	uint64_t below = atomic_load(&m->stack->layer[layer + 1]->size);

	if (!m->leaf_in_use || layer > 0)
		return checkpoint_of_layer(l, below, ret, m->err);
	*ret = (struct checkpoint){.incomplete = true, .from_size = below, .to_size = atomic_load(&m->stack->layer[0]->size)};
	memcpy(ret->from, l->header.parent_uuid, sizeof(ret->from));
	memcpy(ret->to, l->footer.uuid, sizeof(ret->to));
	return sector_set_init(&ret->changed, ret->to_size / VHD_SECTOR)
	       ? err_set(m->err, -ENOMEM, "no memory for what the merged layers had changed") : 0;
}

/* What layers hold that nobody writes to is on disk as it is in RAM. */
int merge_records_begin(struct merge *m)
{
	const struct layer *lowest = m->stack->layer[m->into - 1]->layer;
	const struct layer *top = m->stack->layer[m->first]->layer;
	int rc = 0;

	/* A raw disk has no Unique Id: nothing can be said of its states. */
	if (m->target->layer->raw || (m->options->no_checkpoint && m->first > 0))
		return 0;
	m->records = calloc(m->into - m->first, sizeof(*m->records));
	if (!m->records)
		return err_set(m->err, -ENOMEM, "no memory for what the merged layers had changed");
	for (unsigned i = m->first; rc == 0 && i < m->into; i++) {
		rc = record_of(m, i, &m->records[m->record_count]);
		m->record_count += rc == 0;
	}
	/* The state that the merge began with, though it may have been cut off after the target got its new Unique Id. */
	if (rc == 0)
		rc = checkpoint_begin(m->target->layer->path, lowest->header.parent_uuid, top->footer.uuid, m->err);
	for (unsigned i = 0; rc == 0 && m->first == 0 && i < m->record_count; i++)
		rc = checkpoint_promise(m->target->layer->path, &m->records[i], m->err);
	return rc;
}

int merge_records_write(struct merge *m, struct image_layer *const *gone)
{
	const char *path = m->target->layer->path;
	bool drop = m->options->no_checkpoint || m->leaf_in_use;
	int rc = 0;

	for (unsigned i = m->record_count; rc == 0 && i-- > 0;)
		rc = m->first == 0 ? checkpoint_fulfil(path, m->records[i].to, drop, m->err)
		                   : checkpoint_write(path, &m->records[i], m->err);
	for (unsigned i = 0; rc == 0 && m->record_count && !m->options->keep && i < m->into - m->first; i++)
		rc = checkpoint_adopt(gone[i]->layer->path, gone[i]->layer->footer.uuid, path, m->err);
	return rc;
}

void merge_records_done(struct merge *m)
{
	for (unsigned i = 0; i < m->record_count; i++)
		checkpoint_done(&m->records[i]);
	free(m->records);
	m->records = NULL;
	m->record_count = 0;
}
