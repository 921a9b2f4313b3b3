/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/random.h"
#include "vhd/control-wire.h"

static char buffer[CONTROL_REPLY_MAX];

static int parse(const char *text, struct control_line *ret)
{
	strcpy(buffer, text);
	return control_line_parse(buffer, strlen(text), ret);
}

static void words_have_keys_and_values(void **state)
{
	struct control_line line;
	uint64_t number;
	bool flag;

	(void)state;
	assert_int_equal(parse("merge file=a:b name=x%20%3d%25%0Ay empty= n=18446744073709551615 yes=1 no=0", &line), 0);
	assert_string_equal(line.verb, "merge");
	assert_string_equal(control_line_get(&line, "file"), "a:b");
	assert_string_equal(control_line_get(&line, "name"), "x =%\ny");
	assert_string_equal(control_line_get(&line, "empty"), "");
	assert_int_equal(control_line_number(&line, "n", &number), 0);
	assert_true(number == UINT64_MAX);
	assert_int_equal(control_line_flag(&line, "yes", &flag), 0);
	assert_true(flag);
	assert_string_equal(control_line_unread(&line), "no");
	assert_int_equal(control_line_flag(&line, "no", &flag), 0);
	assert_false(flag);
	assert_null(control_line_unread(&line));
	assert_int_equal(control_line_flag(&line, "none", &flag), 0);
	assert_false(flag);
	assert_null(control_line_get(&line, "none"));
	assert_int_equal(control_line_number(&line, "none", &number), -ENOENT);
}

static void a_verb_alone_is_a_line(void **state)
{
	struct control_line line;

	(void)state;
	assert_int_equal(parse("hello", &line), 0);
	assert_string_equal(line.verb, "hello");
	assert_int_equal(line.count, 0);
}

static void what_is_no_line_is_refused(void **state)
{
	static const char *const wrong[] = {
	        "", " ", "Hello", "1hello", "hello ", "hello  a=1", "hello a", "hello =1", "hello a=1 a=2", "hello A=1",
	        "hello a=%", "hello a=%4", "hello a=%zz", "hello a=%00", "hello a=\t", "hello a=\xc3\xa9", "a\rb", "h\x7f",
	};
	struct control_line line;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		if (parse(wrong[i], &line) != -EINVAL)
			fail_msg("'%s' is taken for a line", wrong[i]);
	memcpy(buffer, "hello\0a=1", 9);
	assert_int_equal(control_line_parse(buffer, 9, &line), -EINVAL);
}

static void more_words_than_there_may_be_are_refused(void **state)
{
	char text[1000] = "verb";
	struct control_line line;
	size_t used = 4;

	(void)state;
	for (unsigned i = 0; i < CONTROL_WORDS_MAX; i++)
		used += (size_t)sprintf(text + used, " k%u=1", i);
	assert_int_equal(parse(text, &line), 0);
	strcat(text, " more=1");
	assert_int_equal(parse(text, &line), -EINVAL);
}

static void numbers_are_decimal_and_fit(void **state)
{
	static const char *const wrong[] = {"v n=", "v n=-1", "v n=+1", "v n=0x10", "v n=1%20", "v n=18446744073709551616",
	                                    "v n=99999999999999999999999"};
	struct control_line line;
	uint64_t number;
	bool flag;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(parse(wrong[i], &line), 0);
		assert_int_equal(control_line_number(&line, "n", &number), -EINVAL);
	}
	assert_int_equal(parse("v n=2", &line), 0);
	assert_int_equal(control_line_flag(&line, "n", &flag), -EINVAL);
}

static void any_bytes_come_back_as_they_went(void **state)
{
	struct rng rng = {20261121};

	(void)state;
	for (unsigned round = 0; round < 2000; round++) {
		char value[200], wire[1000];
		struct control_text text = control_text_in(wire, sizeof(wire));
		size_t length = rng_below(&rng, sizeof(value)), whole;
		struct control_line line;

		for (size_t i = 0; i < length; i++)
			value[i] = (char)(1 + rng_below(&rng, 255));
		value[length] = '\0';
		control_text_begin(&text, "v");
		control_text_string(&text, "key", value);
		control_text_number(&text, "n", round);
		assert_int_equal(control_text_end(&text), 0);
		whole = control_line_length(wire, text.used);
		assert_int_equal(whole, text.used);
		assert_int_equal(control_line_parse(wire, whole - 1, &line), 0);
		assert_string_equal(control_line_get(&line, "key"), value);
	}
}

static void a_line_that_does_not_fit_leaves_those_before_it(void **state)
{
	char wire[20];
	struct control_text text = control_text_in(wire, sizeof(wire));

	(void)state;
	control_text_begin(&text, "one");
	control_text_number(&text, "a", 1);
	assert_int_equal(control_text_end(&text), 0);
	control_text_begin(&text, "two");
	control_text_string(&text, "a", "far too long to fit");
	assert_int_equal(control_text_end(&text), -EMSGSIZE);
	assert_int_equal(text.used, 8);
	assert_memory_equal(wire, "one a=1\n", 8);
	control_text_begin(&text, "two");
	assert_int_equal(control_text_end(&text), 0);
	assert_memory_equal(wire, "one a=1\ntwo\n", 12);
}

/* Nothing is read or written outside the text, whatever it is; a sanitizer build sees it. */
static void noise_is_taken_or_refused(void **state)
{
	static const char letters[] = "abmerge =%%0123456789\n\t\x80";
	struct rng rng = {7};
	unsigned taken = 0;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		size_t length = rng_below(&rng, 60);
		char *text = malloc(length + 1);
		struct control_line line;

		for (size_t i = 0; i < length; i++)
			text[i] = letters[rng_below(&rng, sizeof(letters) - 1)];
		if (control_line_parse(text, length, &line) == 0) {
			taken++;
			for (unsigned i = 0; i < line.count; i++)
				assert_ptr_equal(control_line_get(&line, line.words[i].key), line.words[i].value);
		}
		free(text);
	}
	assert_true(taken > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(words_have_keys_and_values),
	        cmocka_unit_test(a_verb_alone_is_a_line),
	        cmocka_unit_test(what_is_no_line_is_refused),
	        cmocka_unit_test(more_words_than_there_may_be_are_refused),
	        cmocka_unit_test(numbers_are_decimal_and_fit),
	        cmocka_unit_test(any_bytes_come_back_as_they_went),
	        cmocka_unit_test(a_line_that_does_not_fit_leaves_those_before_it),
	        cmocka_unit_test(noise_is_taken_or_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
