/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CONTROL_MESSAGE_H
#define VHD_CONTROL_MESSAGE_H

/* Requests, results and errors as lines of a control socket (docs/control.md), and back. */

#include "vhd/control-wire.h"
#include "vhd/upkeep-request.h"

/* `detach`: the work goes on when who asked has gone. 0 or -EMSGSIZE. */
int control_request_write(const struct upkeep_request *request, bool detach, struct control_text *text);

/* 0; -ENOSYS: the verb is none of upkeep's; -EINVAL with the sentence. */
int control_request_read(struct control_line *line, struct upkeep_request *ret, bool *detach, struct err *err);

/* The words of a result or of an error about `verb`. */
void control_result_words(struct control_text *text, enum upkeep_verb verb, const struct upkeep_result *result);
int control_result_read(struct control_line *line, enum upkeep_verb verb, struct upkeep_result *ret);

/* The number that stands for a verdict or -errno: "would-lose", "errno-5". */
#define CONTROL_CODE_MAX 24u
char *control_code_text(int code, char ret[CONTROL_CODE_MAX]);
int control_code_read(const char *text); /* -EPROTO: none that is known */

/* "dev:ino" in hexadecimal. */
#define CONTROL_FILE_MAX 40u
char *control_file_text(struct upkeep_file file, char ret[CONTROL_FILE_MAX]);
/* Reads one and moves *text behind it. 0 or -EINVAL. */
int control_file_read(const char **text, struct upkeep_file *ret);

#endif
