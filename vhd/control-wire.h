/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CONTROL_WIRE_H
#define VHD_CONTROL_WIRE_H

/*
 * What goes over a control socket: lines of text, requests one way and replies the other. docs/control.md says which.
 *
 *   line  = verb *( " " key "=" value ) LF
 *   verb, key = lower-case letters, digits, "_" and "-", a letter first
 *   value = printable ASCII without space and "%"; any other byte but NUL as "%" and two hexadecimal digits
 *
 * Everything here is pure: text in, words out.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTROL_VERSION 1u
#define CONTROL_REQUEST_MAX 4096u /* bytes of a request, line feed included */
#define CONTROL_REPLY_MAX 32768u
#define CONTROL_WORDS_MAX 32u

struct control_word {
	const char *key, *value;
	bool read; /* somebody asked for it */
};

struct control_line {
	const char *verb;
	unsigned count;
	struct control_word words[CONTROL_WORDS_MAX];
};

/*
 * Cuts up a line without its line feed, in place: `ret` points into `text` (of `length` bytes, and one that may be
 * overwritten). 0, or -EINVAL: it is none.
 */
int control_line_parse(char *text, size_t length, struct control_line *ret);

/* NULL: there is no such key. */
const char *control_line_get(struct control_line *line, const char *key);

/* A decimal number. 0, -ENOENT, or -EINVAL. */
int control_line_number(struct control_line *line, const char *key, uint64_t *ret);

/* "1" is true, and no such key is false. 0 or -EINVAL. */
int control_line_flag(struct control_line *line, const char *key, bool *ret);

/* A key that nobody asked for, or NULL. Of a request that means: it wants something that is not known here. */
const char *control_line_unread(const struct control_line *line);

/* Writing one: begin, words, end. What does not fit is noticed at the end. */
struct control_text {
	char *text;
	size_t size, used;
	bool full;
};

static inline struct control_text control_text_in(char *text, size_t size)
{
	return (struct control_text){.text = text, .size = size};
}

void control_text_begin(struct control_text *text, const char *verb);
void control_text_string(struct control_text *text, const char *key, const char *value);
void control_text_number(struct control_text *text, const char *key, uint64_t value);
int control_text_end(struct control_text *text); /* -EMSGSIZE; the text is then as before control_text_begin */

/* Bytes of the whole line at the front of `text`, its line feed included; 0: there is none yet. */
size_t control_line_length(const char *text, size_t length);

#endif
