/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/defect.h"

#include <stdarg.h>
#include <stdio.h>

int defect_report(const struct defect_scope *scope, enum vhd_severity severity, const char *code, int verdict,
                  uint64_t offset, const char *format, ...)
{
	bool fatal = severity == VHD_DAMAGE && !defect_collects(scope);
	char sentence[sizeof(scope->err->text)];
	va_list args;

	if (!fatal && !(scope->sink && scope->sink->defect))
		return 0;
	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	if (fatal)
		return err_set(scope->err, verdict, "%s: %s", scope->path, sentence);
	scope->sink->defect(scope->sink->user, &(struct vhd_defect){
		.severity = severity,
		.code = code,
		.path = scope->path,
		.offset = offset,
		.sentence = sentence,
	});
	return 0;
}
