/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What merged layers had changed is kept in checkpoint files beside what they were merged into, one for each layer, so
 * that the list of changes since any of their states can still be had (checkpoint.h). Of a leaf that was in use there
 * is none: what is written during the merge goes past it.
 */
#include "vhd/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/checkpoint.h"

/* What the layers hold is read before anything changes; those that nobody writes to are on disk as they are in RAM. */
int merge_records_begin(struct merge *m)
{
	const struct layer *lowest = m->stack->layer[m->into - 1]->layer;
	const struct layer *top = m->stack->layer[m->first]->layer;
	int rc = 0;

	/* A raw disk has no Unique Id: nothing can be said of its states. */
	if (m->options->no_checkpoint || m->target->layer->raw)
		return 0;
	m->records = calloc(m->into - m->first, sizeof(*m->records));
	if (!m->records)
		return err_set(m->err, -ENOMEM, "no memory for what the merged layers had changed");
	for (unsigned i = m->first; rc == 0 && i < m->into; i++) {
		uint64_t below = atomic_load(&m->stack->layer[i + 1]->size);

		rc = checkpoint_of_layer(m->stack->layer[i]->layer, below, &m->records[m->record_count], m->err);
		m->record_count += rc == 0;
	}
	/* The state that the merge began with, though it may have been cut off after the target got its new Unique Id. */
	return rc ? rc : checkpoint_begin(m->target->layer->path, lowest->header.parent_uuid, top->footer.uuid, m->err);
}

int merge_records_write(struct merge *m, struct image_layer *const *gone)
{
	int rc = 0;

	for (unsigned i = m->record_count; rc == 0 && i-- > 0;)
		rc = checkpoint_write(m->target->layer->path, &m->records[i], m->err);
	for (unsigned i = 0; rc == 0 && m->record_count && !m->options->keep && i < m->into - m->first; i++)
		rc = checkpoint_adopt(gone[i]->layer->path, gone[i]->layer->footer.uuid, m->target->layer->path, m->err);
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
