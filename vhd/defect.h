/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_DEFECT_H
#define VHD_DEFECT_H

/*
 * One way to say what is wrong with a file, whether that ends the call (opening) or is one of a list (checking,
 * salvaging).
 */

#include "vhd/layer.h"

struct defect_scope {
	const char *path; /* as sentences name the file */
	const struct layer_sink *sink; /* may be NULL */
	struct err *err; /* may be NULL */
};

/* Whether damage is listed and lived with, instead of ending the call. */
static inline bool defect_collects(const struct defect_scope *scope)
{
	return scope->sink && scope->sink->defect && !scope->sink->strict;
}

/*
 * Gives the defect to the sink. 0: go on. `verdict`, with the sentence and the path in scope->err: damage, and the
 * scope does not collect.
 */
int defect_report(const struct defect_scope *scope, enum vhd_severity severity, const char *code, int verdict,
                  uint64_t offset, const char *format, ...) __attribute__((format(printf, 6, 7)));

#endif
