/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/control-client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vhd/control-message.h"
#include "vhd/control-talk.h"

/* The reply's error as a code, with its sentence. */
static int error_take(const struct control_owner *owner, struct control_line *line, struct err *err)
{
	const char *code = control_line_get(line, "code"), *sentence = control_line_get(line, "text");

	if (!code || !sentence || control_code_read(code) == -EPROTO)
		return err_set(err, -EPROTO, "%s (pid %d) gives an error that is not understood", owner->program,
		               (int)owner->pid);
	return err_set(err, control_code_read(code), "%s", sentence);
}

static int not_understood(const struct control_owner *owner, struct err *err)
{
	return err_set(err, -EPROTO, "%s (pid %d) answers in a way that is not understood: is it of another version?",
	               owner->program, (int)owner->pid);
}

static int gone(const struct control_owner *owner, int r, struct err *err)
{
	if (r == -EPROTO)
		return not_understood(owner, err);
	return err_set(err, -EPIPE, "%s (pid %d), which has the disk open, does not answer%s", owner->program,
	               (int)owner->pid, r == -EPIPE ? " any more: it has ended, or closed the disk" : "");
}

static int ask(struct control_owner *owner, const struct control_text *text, struct err *err)
{
	int r = talk_send(owner->socket, text->text, text->used);

	return r ? gone(owner, r, err) : 0;
}

static void progress_take(const struct control_watch *watch, struct control_line *line)
{
	struct vhd_job_status status = {0};

	if (watch->progress && !control_line_number(line, "done", &status.done_bytes) &&
	    !control_line_number(line, "total", &status.total_bytes) && !control_line_flag(line, "paused", &status.paused))
		watch->progress(watch->user, &status);
}

/* What is not the end of the request. false: it is none of these. */
static bool report_take(const struct control_watch *watch, struct control_line *line)
{
	const char *sentence = control_line_get(line, "text");
	uint64_t job;

	if (strcmp(line->verb, "progress") == 0)
		progress_take(watch, line);
	else if (strcmp(line->verb, "warn") == 0 && sentence && watch->warn)
		watch->warn(watch->user, sentence);
	else if (strcmp(line->verb, "job") == 0 && !control_line_number(line, "job", &job) && watch->started)
		watch->started(watch->user, job);
	else
		return strcmp(line->verb, "warn") == 0 || strcmp(line->verb, "job") == 0;
	return true;
}

int control_upkeep(struct control_owner *owner, const struct upkeep_request *request,
                   const struct control_watch *watch, struct upkeep_result *ret, struct err *err)
{
	char buffer[CONTROL_REQUEST_MAX];
	struct control_text text = control_text_in(buffer, sizeof(buffer));
	bool cancelled = false;
	struct talk talk;
	int r = control_request_write(request, false, &text);

	memset(ret, 0, sizeof(*ret));
	if (r)
		return err_set(err, r, "the request is too long");
	talk_begin(&talk, owner->socket);
	r = ask(owner, &text, err);
	while (!r) {
		struct control_line line;

		r = talk_line(&talk, 100, &line);
		if (watch->interrupted && !cancelled && watch->interrupted(watch->user)) {
			/* Half closed, it is told how that ended. */
			cancelled = true;
			(void)shutdown(owner->socket, SHUT_WR);
		}
		if (r == -ETIMEDOUT) {
			r = 0;
		} else if (r) {
			r = gone(owner, r, err);
		} else if (strcmp(line.verb, "result") == 0) {
			r = control_result_read(&line, request->verb, ret) ? not_understood(owner, err) : 0;
			break;
		} else if (strcmp(line.verb, "error") == 0) {
			(void)control_result_read(&line, request->verb, ret);
			r = error_take(owner, &line, err);
		} else if (!report_take(watch, &line)) {
			r = not_understood(owner, err);
		}
	}
	talk_end(&talk);
	return r;
}

/* One request with one line in reply, or with `take` for those before it. */
static int exchange(struct control_owner *owner, struct control_text *request, struct talk *talk,
                    struct control_line *ret, struct err *err)
{
	int r = request->used ? ask(owner, request, err) : 0;

	if (r)
		return r;
	r = talk_line(talk, TALK_PATIENCE_MS, ret);
	if (r)
		return gone(owner, r, err);
	return strcmp(ret->verb, "error") == 0 ? error_take(owner, ret, err) : 0;
}

int control_upkeep_detach(struct control_owner *owner, const struct upkeep_request *request, uint64_t *job,
                          struct err *err)
{
	char buffer[CONTROL_REQUEST_MAX];
	struct control_text text = control_text_in(buffer, sizeof(buffer));
	struct control_line line;
	struct talk talk;
	int r = control_request_write(request, true, &text);

	if (r)
		return err_set(err, r, "the request is too long");
	talk_begin(&talk, owner->socket);
	r = exchange(owner, &text, &talk, &line, err);
	if (!r && control_line_number(&line, "job", job))
		r = not_understood(owner, err);
	talk_end(&talk);
	return r;
}

static int job_take(struct control_line *line, struct control_job *ret)
{
	const char *verb = control_line_get(line, "verb"), *state = control_line_get(line, "state"), *sentence;

	memset(ret, 0, sizeof(*ret));
	if (control_line_number(line, "job", &ret->id) || !verb || !state || strlen(state) >= sizeof(ret->state))
		return -EPROTO;
	strcpy(ret->state, state);
	for (int i = UPKEEP_MERGE; i <= UPKEEP_COMPACT; i++)
		if (strcmp(verb, upkeep_verb_name((enum upkeep_verb)i)) == 0)
			ret->verb = (enum upkeep_verb)i;
	ret->ended = control_line_number(line, "done", &ret->done_bytes) != 0;
	(void)control_line_number(line, "total", &ret->total_bytes);
	(void)control_line_number(line, "rate", &ret->rate);
	sentence = control_line_get(line, "text");
	if (sentence)
		err_set(&ret->err, 0, "%s", sentence);
	return 0;
}

int control_jobs(struct control_owner *owner, struct control_job ret[CONTROL_JOBS_MAX], struct err *err)
{
	char buffer[CONTROL_REQUEST_MAX];
	struct control_text text = control_text_in(buffer, sizeof(buffer));
	struct control_line line;
	struct talk talk;
	int r, count = 0;

	control_text_begin(&text, "jobs");
	r = control_text_end(&text);
	talk_begin(&talk, owner->socket);
	while (!r) {
		r = exchange(owner, &text, &talk, &line, err);
		text.used = 0; /* asked */
		if (r || strcmp(line.verb, "result") == 0)
			break;
		if (strcmp(line.verb, "job") != 0 || (unsigned)count == CONTROL_JOBS_MAX || job_take(&line, &ret[count++]))
			r = not_understood(owner, err);
	}
	talk_end(&talk);
	return r ? r : count;
}

int control_steer(struct control_owner *owner, enum control_steering how, uint64_t job, uint64_t rate, struct err *err)
{
	static const char *const verbs[] = {
	        [CONTROL_PAUSE] = "pause",
	        [CONTROL_RESUME] = "resume",
	        [CONTROL_CANCEL] = "cancel",
	        [CONTROL_RATE] = "rate",
	};
	char buffer[CONTROL_REQUEST_MAX];
	struct control_text text = control_text_in(buffer, sizeof(buffer));
	struct control_line line;
	struct talk talk;
	int r;

	control_text_begin(&text, verbs[how]);
	if (job)
		control_text_number(&text, "job", job);
	if (how == CONTROL_RATE)
		control_text_number(&text, "rate", rate);
	r = control_text_end(&text);
	talk_begin(&talk, owner->socket);
	if (!r)
		r = exchange(owner, &text, &talk, &line, err);
	talk_end(&talk);
	return r;
}

void control_owner_close(struct control_owner *owner)
{
	close(owner->socket);
}
