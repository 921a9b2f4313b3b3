/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/repair.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/lock.h"

int repair_no_memory(const struct repair *repair)
{
	return err_set(repair->err, -ENOMEM, "%s: no memory to plan its repair", repair->path);
}

static int step_add(struct repair *repair, const char *code, uint64_t offset, bool refused, const char *format,
                    va_list args)
{
	struct repair_step *grown = reallocarray(repair->steps, repair->step_count + 1, sizeof(*grown));
	char *sentence = NULL;

	if (grown)
		repair->steps = grown;
	if (!grown || vasprintf(&sentence, format, args) < 0)
		return repair_no_memory(repair);
	repair->steps[repair->step_count++] = (struct repair_step){code, offset, refused, sentence};
	return 0;
}

int repair_step(struct repair *repair, const char *code, uint64_t offset, const char *format, ...)
{
	va_list args;
	int r;

	va_start(args, format);
	r = step_add(repair, code, offset, false, format, args);
	va_end(args);
	return r;
}

int repair_refuse(struct repair *repair, const char *code, uint64_t offset, const char *format, ...)
{
	va_list args;
	int r;

	va_start(args, format);
	r = step_add(repair, code, offset, true, format, args);
	va_end(args);
	repair->refused = true;
	return r;
}

int repair_lose(struct repair *repair, uint64_t offset, uint64_t length, bool doubtful, const char *format, ...)
{
	struct repair_loss *grown = reallocarray(repair->losses, repair->loss_count + 1, sizeof(*grown));
	char *sentence = NULL;
	va_list args;
	int n = -1;

	if (grown) {
		repair->losses = grown;
		va_start(args, format);
		n = vasprintf(&sentence, format, args);
		va_end(args);
	}
	if (n < 0)
		return repair_no_memory(repair);
	repair->losses[repair->loss_count++] = (struct repair_loss){offset, length, doubtful, sentence};
	return 0;
}

int repair_read(const struct repair *repair, void *buffer, size_t length, uint64_t offset)
{
	return overlay_read(&repair->plan, buffer, length, offset);
}

static void defect_keep(void *user, const struct vhd_defect *defect)
{
	struct repair_defects *defects = user;
	struct repair_defect *kept = &defects->list[defects->count];

	defects->damages += defect->severity == VHD_DAMAGE;
	if (defects->count == REPAIR_DEFECTS_MAX)
		return;
	defects->count++;
	*kept = (struct repair_defect){defect->code, defect->severity, defect->offset, ""};
	snprintf(kept->sentence, sizeof(kept->sentence), "%s", defect->sentence);
}

int repair_scan(struct repair *repair, struct layer **ret, struct repair_defects *defects, struct err *why)
{
	struct repair_defects *own = defects ? NULL : malloc(sizeof(*own));
	struct store *view = overlay_store(&repair->plan);
	struct repair_defects *list = defects ? defects : own;
	struct layer_sink sink = {.defect = defect_keep, .user = list};
	int r;

	if (!view || !list) {
		store_close(view);
		free(own);
		return err_set(why, -ENOMEM, "%s: no memory to plan its repair", repair->path);
	}
	list->count = list->damages = 0;
	r = layer_open_take(view, repair->path, &sink, ret, why);
	free(own);
	return r;
}

unsigned repair_damages(struct repair *repair)
{
	struct repair_defects *defects = malloc(sizeof(*defects));
	unsigned damages = UINT_MAX;
	struct layer *layer;
	struct err why;

	if (defects && repair_scan(repair, &layer, defects, &why) == 0) {
		damages = defects->damages;
		layer_free(layer);
	}
	free(defects);
	return damages;
}

int repair_open(const char *path, bool write, struct store **ret, struct err *err)
{
	struct stat st;
	int fd, r;

	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return S_ISBLK(st.st_mode)
		       ? err_set(err, -EROFS, "%s: a VHD on a block device is only read: copy it into a file, and repair that", path)
		       : err_set(err, -EINVAL, "%s: not a regular file", path);
	fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_set(err, -errno, "%s: opening it for %s failed: %s", path, write ? "writing" : "reading",
		               strerror(errno));
	r = lock_take(fd, path, write, err);
	if (r) {
		close(fd);
		return r;
	}
	return store_file_open_take(fd, path, write ? STORE_WRITE : 0, ret, err);
}

static int plan_make(struct repair *repair)
{
	int r = repair_footers(repair);

	if (r || repair->refused)
		return r;
	if (repair->footer.type == VHD_FIXED)
		return repair_fixed(repair);
	r = repair_header(repair);
	if (r == 0 && !repair->refused)
		r = repair_locators(repair);
	if (r == 0 && !repair->refused)
		r = repair_blocks(repair);
	if (r == 0 && !repair->refused)
		r = repair_batmap(repair);
	if (r == 0 && !repair->refused)
		r = repair_parent(repair);
	if (r == 0 && !repair->refused)
		r = repair_tail(repair);
	return r;
}

static void damage_refuse(void *user, const struct vhd_defect *defect)
{
	struct repair *repair = user;

	if (repair->options->dry_run && repair->options->defect)
		repair->options->defect(repair->options->user, defect);
	if (defect->severity != VHD_DAMAGE || repair->refused)
		return;
	/* Only the first is told: with it all is refused. Out of memory leaves `refused` without a sentence, and err has one. */
	(void)repair_refuse(repair, defect->code, defect->offset, "%s; nothing known here repairs that, and the rest is left "
	                    "alone too", defect->sentence);
}

/* What the file will be like, before anything is done to it. */
static int plan_check(struct repair *repair)
{
	struct vhd_check_options options = {
		.defect = damage_refuse, .user = repair,
	};
	struct store *view = overlay_store(&repair->plan);
	struct err why = {""};
	int r;

	if (!view)
		return repair_no_memory(repair);
	r = check_store_take(view, repair->path, &options, &repair->result->after, &why);
	if (r == -ENOMEM)
		return err_set(repair->err, r, "%s", why.text);
	if (r && r != VHD_E_CORRUPT)
		return repair_refuse(repair, "unreadable", 0, "%s; nothing known here repairs that", why.text);
	return 0;
}

static void steps_tell(struct repair *repair, bool done)
{
	const struct vhd_repair_options *options = repair->options;

	for (size_t i = 0; i < repair->step_count; i++) {
		const struct repair_step *step = &repair->steps[i];
		enum vhd_repair_state state = step->refused ? VHD_REPAIR_REFUSED : done ? VHD_REPAIR_DONE : VHD_REPAIR_PLANNED;

		/* When all is refused, what would have been done beside it is of no use to know. */
		if (repair->refused && !step->refused)
			continue;
		repair->result->steps += !step->refused;
		repair->result->refused += step->refused;
		if (options->step)
			options->step(options->user, &(struct vhd_repair_step){
				state, step->code, repair->path, step->offset, step->sentence,
			});
	}
	for (size_t i = 0; i < repair->loss_count && !repair->refused; i++) {
		const struct repair_loss *loss = &repair->losses[i];

		if (loss->doubtful)
			repair->result->doubtful_bytes += loss->length;
		else
			repair->result->lost_bytes += loss->length;
		if (options->loss)
			options->loss(options->user, &(struct vhd_repair_loss){
				loss->offset, loss->length, loss->doubtful, loss->sentence,
			});
	}
}

static int plan_carry_out(struct repair *repair)
{
	struct repair_ranges ranges = {0};
	int r = repair_ranges_find(repair, &ranges);

	if (r == 0)
		for (size_t i = 0; i < ranges.count; i++)
			repair->result->changed_bytes += ranges.list[i].length;
	if (r == 0 && !repair->options->dry_run &&
	    (ranges.count || repair->plan.size != repair->plan.file_size)) {
		r = repair_side_write(repair, &ranges);
		if (r == 0)
			r = repair_apply(repair, &ranges);
	}
	free(ranges.list);
	return r;
}

static void repair_done(struct repair *repair)
{
	for (size_t i = 0; i < repair->step_count; i++)
		free(repair->steps[i].sentence);
	for (size_t i = 0; i < repair->loss_count; i++)
		free(repair->losses[i].sentence);
	free(repair->steps);
	free(repair->losses);
	overlay_done(&repair->plan);
	store_close(repair->store);
}

/* --- The check at the end: what is left is refused, each with its reason. --- */

struct after {
	const struct vhd_repair_options *options;
	struct vhd_repair_result *result;
	const char *path;
	bool others_only; /* the file itself has been judged by its plan */
	bool parent_changed; /* by the plan */
	unsigned refused;
};

static const char *advice(const struct after *after, const struct vhd_defect *defect, bool own, struct err *text)
{
	if (!own)
		err_set(text, 0, "it is in a parent, which is not touched from here: vhd check --repair %s; other disks may stand "
		        "on that file, and they all see what is changed in it", defect->path);
	else if (!strcmp(defect->code, "parent-mismatch"))
		err_set(text, 0, "if that file is the parent all the same: vhd check --repair --parent FILE --force %s", after->path);
	else if (!strncmp(defect->code, "parent-", 7))
		err_set(text, 0, "that is no damage of this file: bring the parent back, or name it with --parent FILE");
	else
		err_set(text, 0, "nothing known here repairs that");
	return text->text;
}

static void after_defect(void *user, const struct vhd_defect *defect)
{
	struct after *after = user;
	struct stat a, b;
	bool own = !strcmp(defect->path, after->path);
	struct err text, sentence;

	if (!own && stat(defect->path, &a) == 0 && stat(after->path, &b) == 0)
		own = a.st_dev == b.st_dev && a.st_ino == b.st_ino;
	if (after->others_only && own &&
	    (strncmp(defect->code, "parent-", 7) != 0 || (after->parent_changed && !strcmp(defect->code, "parent-mismatch"))))
		return;
	if (after->options->defect)
		after->options->defect(after->options->user, defect);
	if (defect->severity != VHD_DAMAGE)
		return;
	after->result->refused++;
	after->refused++;
	if (!after->options->step)
		return;
	err_set(&sentence, 0, "%s; %s", defect->sentence, advice(after, defect, own, &text));
	after->options->step(after->options->user, &(struct vhd_repair_step){
		VHD_REPAIR_REFUSED, defect->code, defect->path, defect->offset, sentence.text,
	});
}

static void after_progress(void *user, uint64_t done, uint64_t total)
{
	struct after *after = user;

	if (after->options->progress)
		after->options->progress(after->options->user, done, total);
}

/* What `vhd check` says now. A plan's file is not there to be checked, but what it stands on is. */
static int check_again(struct after *after, struct err *err)
{
	struct vhd_check_options options = {
		.parent = after->options->parent,
		.parent_raw = after->options->parent_raw,
		.allow_dirs = after->options->allow_dirs,
		.one_file = after->options->one_file,
		.defect = after_defect,
		.progress = after_progress,
		.user = after,
	};
	struct vhd_check_result result = {0};
	struct err why = {""};
	int r = vhd_check(after->path, &options, &result, &why);

	if (after->options->dry_run)
		return after->refused ? VHD_E_CORRUPT : 0;
	after->result->after = result;
	if (r && r != VHD_E_CORRUPT)
		return err_set(err, r, "%s", why.text);
	return r;
}

int vhd_repair(const char *path, const struct vhd_repair_options *options, struct vhd_repair_result *ret,
               struct err *err)
{
	static const struct vhd_repair_options defaults;
	struct vhd_repair_result result = {0};
	struct repair repair = {.path = path, .options = options ? options : &defaults, .result = &result, .err = err};
	struct after after = {.options = repair.options, .result = &result, .path = path, .others_only = repair.options->dry_run};
	int r;

	r = repair_open(path, !repair.options->dry_run, &repair.store, err);
	if (r)
		goto out;
	r = overlay_init(&repair.plan, repair.store);
	if (r)
		err_set(err, r, "%s: %s", path, strerror(-r));
	if (r == 0)
		r = plan_make(&repair);
	if (r == 0 && !repair.refused)
		r = plan_check(&repair);
	if (r == 0 && !repair.refused)
		r = plan_carry_out(&repair);
	if (r == 0) {
		steps_tell(&repair, !repair.options->dry_run);
		if (repair.refused)
			r = VHD_E_CORRUPT;
	}
	after.parent_changed = repair.parent_changed;
	repair_done(&repair);
	if (r == 0)
		r = check_again(&after, err);
	if (r == VHD_E_CORRUPT)
		err_set(err, r, "%s: damage is left that was not touched", path);
out:
	if (ret)
		*ret = result;
	return r;
}
