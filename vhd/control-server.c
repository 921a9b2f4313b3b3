/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/control-server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/local-socket.h"
#include "common/runtime-folder.h"
#include "vhd/control-message.h"
#include "vhd/upkeep-job.h"

#define CLIENTS_MAX 32u
#define PROGRESS_MS 200
#define IDLE_SECONDS 30        /* so long a client may be silent, unless it waits for its job */
#define FAREWELL_MS 1000       /* so long replies may take to be read when the disk is closed */
#define REPLIES_MAX (2 * CONTROL_REPLY_MAX)

struct client {
	int fd;
	bool waits;     /* for the job; when it goes away the job is cancelled */
	bool finished;  /* sends nothing more: half closed */
	time_t heard;   /* CLOCK_MONOTONIC */
	char in[CONTROL_REQUEST_MAX];
	size_t in_used;
	char out[REPLIES_MAX];
	size_t out_used;
};

/* What became of the last job. */
struct outcome {
	unsigned id; /* 0: there was none */
	enum upkeep_verb verb;
	int result;
	struct err err;
};

struct control_server {
	struct upkeep_work work;
	char *path, *program;
	bool writable;
	int folder, listener, wake; /* descriptors; `wake`: an eventfd */
	char name[40];
	pthread_t thread;
	bool threaded;
	pthread_mutex_t lock;
	bool stopping; /* under `lock` */
	/* The thread's own: */
	struct upkeep_layers layers;
	struct client *clients[CLIENTS_MAX];
	unsigned client_count;
	struct upkeep_job *job; /* one at a time, as for vhd.h's functions; NULL: none */
	unsigned job_id;        /* of the last that was started */
	int64_t progress_due_ms; /* CLOCK_MONOTONIC */
	struct outcome last;
	bool closing; /* no job begins any more */
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static time_t now_seconds(void)
{
	return (time_t)(now_ms() / 1000);
}

/* --- Replies. What does not fit for a client that reads nothing is lost to it; the end of a job always fits. --- */

static struct control_text reply_to(struct client *client)
{
	return (struct control_text){.text = client->out, .size = sizeof(client->out), .used = client->out_used};
}

static void reply_end(struct client *client, struct control_text *text)
{
	(void)control_text_end(text);
	client->out_used = text->used;
}

static void error_reply(struct client *client, int code, const char *sentence)
{
	struct control_text text = reply_to(client);
	char word[CONTROL_CODE_MAX];

	control_text_begin(&text, "error");
	control_text_string(&text, "code", control_code_text(code, word));
	control_text_string(&text, "text", sentence);
	reply_end(client, &text);
}

/* --- Verbs --- */

static void hello(struct control_server *server, struct client *client)
{
	char files[VHD_MAX_LAYERS * CONTROL_FILE_MAX] = "";
	struct control_text text = reply_to(client);
	size_t used = 0;

	for (unsigned i = 0; i < server->layers.count; i++) {
		char file[CONTROL_FILE_MAX];

		used += (size_t)snprintf(files + used, sizeof(files) - used, "%s%s", i ? "," : "",
		                         control_file_text(server->layers.files[i], file));
	}
	control_text_begin(&text, "result");
	control_text_number(&text, "version", CONTROL_VERSION);
	control_text_number(&text, "pid", (uint64_t)getpid());
	control_text_string(&text, "program", server->program);
	control_text_string(&text, "path", server->path);
	control_text_number(&text, "writable", server->writable);
	control_text_string(&text, "files", files);
	reply_end(client, &text);
}

static void job_words(struct control_text *text, unsigned id, enum upkeep_verb verb, const char *state)
{
	control_text_begin(text, "job");
	control_text_number(text, "job", id);
	control_text_string(text, "verb", upkeep_verb_name(verb));
	control_text_string(text, "state", state);
}

static void jobs(struct control_server *server, struct client *client)
{
	struct control_text text = reply_to(client);
	char word[CONTROL_CODE_MAX];

	if (server->last.id) {
		int r = server->last.result;

		job_words(&text, server->last.id, server->last.verb, !r ? "done" : r == -ECANCELED ? "cancelled" : "failed");
		if (r) {
			control_text_string(&text, "code", control_code_text(r, word));
			control_text_string(&text, "text", server->last.err.text);
		}
		(void)control_text_end(&text);
	}
	if (server->job) {
		struct vhd_job_status status;

		vhd_job_status(upkeep_job_handle(server->job), &status);
		job_words(&text, server->job_id, upkeep_job_request(server->job)->verb,
		          status.cancelled ? "cancelling" : status.paused ? "paused" : "running");
		control_text_number(&text, "done", status.done_bytes);
		control_text_number(&text, "total", status.total_bytes);
		control_text_number(&text, "rate", status.rate);
		(void)control_text_end(&text);
	}
	control_text_begin(&text, "result");
	reply_end(client, &text);
}

/* pause, resume, cancel, rate: of the job with the id, or of whichever there is. */
static void steer(struct control_server *server, struct client *client, struct control_line *line)
{
	uint64_t id = server->job_id, rate = 0;
	struct control_text text;
	struct vhd_job *handle;
	int r = control_line_number(line, "job", &id);
	bool is_rate = strcmp(line->verb, "rate") == 0;

	if ((r && r != -ENOENT) || (is_rate && control_line_number(line, "rate", &rate)) || control_line_unread(line)) {
		error_reply(client, -EINVAL, "a request about a job whose words are wrong or missing");
		return;
	}
	if (!server->job || id != server->job_id) {
		error_reply(client, -ESRCH, r ? "no job is being worked on" : "that job is not being worked on");
		return;
	}
	handle = upkeep_job_handle(server->job);
	if (is_rate)
		vhd_job_set_rate(handle, rate);
	else if (strcmp(line->verb, "cancel") == 0)
		vhd_job_cancel(handle);
	else
		vhd_job_pause(handle, strcmp(line->verb, "pause") == 0);
	text = reply_to(client);
	control_text_begin(&text, "result");
	control_text_number(&text, "job", id);
	reply_end(client, &text);
}

static void job_begin(struct control_server *server, struct client *client, const struct upkeep_request *request,
                      bool detach)
{
	struct err err = {.text = ""};
	struct control_text text;
	int r;

	if (!server->writable) {
		err_set(&err, -EROFS, "%s: %s (pid %d) has it open for reading only: end that first", server->path,
		        server->program, (int)getpid());
		error_reply(client, -EROFS, err.text);
		return;
	}
	if (server->closing) {
		err_set(&err, -ESHUTDOWN, "%s: %s (pid %d) is closing it just now", server->path, server->program,
		        (int)getpid());
		error_reply(client, -ESHUTDOWN, err.text);
		return;
	}
	if (server->job) {
		err_set(&err, -EBUSY, "%s: job %u is being worked on (%s), and there can be one at a time: wait for it or "
		        "cancel it", server->path, server->job_id,
		        upkeep_verb_name(upkeep_job_request(server->job)->verb));
		error_reply(client, -EBUSY, err.text);
		return;
	}
	r = upkeep_job_start(&server->work, request, server->wake, &server->job, &err);
	if (r) {
		error_reply(client, r, err.text);
		return;
	}
	server->job_id++;
	client->waits = !detach;
	text = reply_to(client);
	control_text_begin(&text, detach ? "result" : "job");
	control_text_number(&text, "job", server->job_id);
	reply_end(client, &text);
}

static void upkeep(struct control_server *server, struct client *client, struct control_line *line)
{
	struct upkeep_request request;
	struct err err = {.text = ""};
	bool detach;
	int r = control_request_read(line, &request, &detach, &err);

	if (r == -ENOSYS)
		err_set(&err, r, "'%s' is not known here: is the command newer than the process that has the disk open?",
		        line->verb);
	if (r)
		error_reply(client, r, err.text);
	else
		job_begin(server, client, &request, detach);
}

static void request_serve(struct control_server *server, struct client *client, struct control_line *line)
{
	const char *verb = line->verb;

	if (strcmp(verb, "hello") == 0)
		hello(server, client);
	else if (strcmp(verb, "jobs") == 0)
		jobs(server, client);
	else if (strcmp(verb, "pause") == 0 || strcmp(verb, "resume") == 0 || strcmp(verb, "cancel") == 0 ||
	         strcmp(verb, "rate") == 0)
		steer(server, client, line);
	else
		upkeep(server, client, line);
}

/* --- Clients --- */

static void client_drop(struct control_server *server, unsigned i)
{
	struct client *client = server->clients[i];

	if (client->waits)
		vhd_job_cancel(upkeep_job_handle(server->job));
	close(client->fd);
	free(client);
	server->clients[i] = server->clients[--server->client_count];
}

static void client_add(struct control_server *server, int fd)
{
	struct client *client;
	uid_t uid;
	pid_t pid;

	if (local_socket_peer(fd, &uid, &pid) || (uid != geteuid() && uid != 0) || server->client_count == CLIENTS_MAX ||
	    !(client = calloc(1, sizeof(*client)))) {
		close(fd);
		return;
	}
	client->fd = fd;
	client->heard = now_seconds();
	server->clients[server->client_count++] = client;
}

/* One request at a time: the next is looked at when the reply to the one before has been taken. */
static bool client_may_ask(const struct client *client)
{
	return !client->waits && client->out_used == 0;
}

/* false: what it sends is no request, and what follows cannot be told apart from it. */
static bool requests_serve(struct control_server *server, struct client *client)
{
	size_t length;

	while (client_may_ask(client) && (length = control_line_length(client->in, client->in_used)) > 0) {
		struct control_line line;

		if (control_line_parse(client->in, length - 1, &line))
			error_reply(client, -EINVAL, "what was sent is no request");
		else
			request_serve(server, client, &line);
		memmove(client->in, client->in + length, client->in_used - length);
		client->in_used -= length;
	}
	return client->in_used < sizeof(client->in) || control_line_length(client->in, client->in_used) > 0;
}

/* false: it is gone. */
static bool client_read(struct control_server *server, struct client *client)
{
	ssize_t n = recv(client->fd, client->in + client->in_used, sizeof(client->in) - client->in_used, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	client->heard = now_seconds();
	if (n > 0) {
		client->in_used += (size_t)n;
		return requests_serve(server, client);
	}
	client->finished = true;
	/* It has asked for the end of its work, and may still want to hear of it. */
	if (client->waits)
		vhd_job_cancel(upkeep_job_handle(server->job));
	return client->waits || client->out_used > 0;
}

/* false: it is gone, or has been told all that it asked for. */
static bool client_write(struct control_server *server, struct client *client)
{
	ssize_t n;

	if (client->out_used == 0)
		return true;
	n = send(client->fd, client->out, client->out_used, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	memmove(client->out, client->out + n, client->out_used - (size_t)n);
	client->out_used -= (size_t)n;
	client->heard = now_seconds();
	if (client->out_used > 0)
		return true;
	return requests_serve(server, client) && (!client->finished || client->waits || client->out_used > 0);
}

static bool client_is_idle(const struct client *client)
{
	return !client->waits && now_seconds() - client->heard > IDLE_SECONDS;
}

static void client_poll(const struct client *client, struct pollfd *ret)
{
	*ret = (struct pollfd){.fd = client->fd};
	if (!client->finished && client->in_used < sizeof(client->in))
		ret->events |= POLLIN;
	if (client->out_used > 0)
		ret->events |= POLLOUT;
}

/* From the last to the first, since one that is dropped gives its place to the last. */
static void clients_serve(struct control_server *server, const struct pollfd *fds, unsigned count)
{
	for (unsigned i = count; i-- > 0;) {
		struct client *client = server->clients[i];
		bool stays = true;

		if (fds[i].revents & (POLLERR | POLLNVAL))
			stays = false;
		/* Both directions closed: nobody will read anything. */
		if ((fds[i].revents & POLLHUP) && (client->finished || !(fds[i].revents & POLLIN)))
			stays = false;
		if (stays && (fds[i].revents & POLLIN))
			stays = client_read(server, client);
		if (stays)
			stays = client_write(server, client);
		if (!stays || client_is_idle(client))
			client_drop(server, i);
	}
}

/* --- The job --- */

static void warnings_tell(struct control_server *server, struct client *client)
{
	char *sentence;

	while ((sentence = upkeep_job_warning(server->job))) {
		struct control_text text;

		if (client) {
			text = reply_to(client);
			text.size -= CONTROL_REPLY_MAX; /* which the last line of the request may need */
			control_text_begin(&text, "warn");
			control_text_string(&text, "text", sentence);
			reply_end(client, &text);
		}
		free(sentence);
	}
}

static struct client *job_client(struct control_server *server)
{
	for (unsigned i = 0; i < server->client_count; i++)
		if (server->clients[i]->waits)
			return server->clients[i];
	return NULL;
}

/* A client that does not read gets no more of it than one line, so that there is room for the end. */
static void progress_tell(struct control_server *server, struct client *client)
{
	struct control_text text = reply_to(client);
	struct vhd_job_status status;

	if (client->out_used > 0 || now_ms() < server->progress_due_ms)
		return;
	server->progress_due_ms = now_ms() + PROGRESS_MS;
	vhd_job_status(upkeep_job_handle(server->job), &status);
	control_text_begin(&text, "progress");
	control_text_number(&text, "done", status.done_bytes);
	control_text_number(&text, "total", status.total_bytes);
	control_text_number(&text, "paused", status.paused);
	reply_end(client, &text);
}

static void result_tell(struct client *client, enum upkeep_verb verb, int r, const struct upkeep_result *result,
                        const struct err *err)
{
	struct control_text text = reply_to(client);
	char word[CONTROL_CODE_MAX];

	control_text_begin(&text, r ? "error" : "result");
	if (r) {
		control_text_string(&text, "code", control_code_text(r, word));
		control_text_string(&text, "text", err->text);
	}
	control_result_words(&text, verb, result);
	reply_end(client, &text);
}

static void job_end(struct control_server *server)
{
	struct client *client = job_client(server);
	struct outcome *last = &server->last;
	struct upkeep_result result;

	*last = (struct outcome){.id = server->job_id, .verb = upkeep_job_request(server->job)->verb};
	last->result = upkeep_job_join(server->job, &result, &last->err);
	warnings_tell(server, client);
	if (client) {
		client->waits = false;
		client->heard = now_seconds();
		result_tell(client, last->verb, last->result, &result, &last->err);
	}
	upkeep_job_free(server->job);
	server->job = NULL;
	upkeep_layers_read(server->work.operations, server->work.vhd, &server->layers);
}

static void job_look(struct control_server *server)
{
	struct client *client;

	if (!server->job)
		return;
	if (upkeep_job_ended(server->job)) {
		job_end(server);
		return;
	}
	client = job_client(server);
	if (client) {
		warnings_tell(server, client);
		progress_tell(server, client);
	}
}

/* --- The thread --- */

static bool is_stopping(struct control_server *server)
{
	bool stopping;

	pthread_mutex_lock(&server->lock);
	stopping = server->stopping;
	pthread_mutex_unlock(&server->lock);
	return stopping;
}

static void client_accept(struct control_server *server, int listener)
{
	const struct timespec pause = {.tv_nsec = 100000000};
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		client_add(server, fd);
	else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
		nanosleep(&pause, NULL); /* it stays in line, so poll would not wait */
}

/* One turn. `listener` -1: no new clients. */
static void turn(struct control_server *server, int listener, int patience_ms)
{
	struct pollfd fds[CLIENTS_MAX + 2] = {{.fd = server->wake, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
	unsigned count = server->client_count;
	uint64_t ignored;

	for (unsigned i = 0; i < count; i++)
		client_poll(server->clients[i], &fds[2 + i]);
	if (poll(fds, 2 + count, patience_ms) < 0)
		return;
	if (fds[0].revents)
		(void)!read(server->wake, &ignored, sizeof(ignored));
	clients_serve(server, fds + 2, count);
	if (fds[1].revents & POLLIN)
		client_accept(server, listener);
	job_look(server);
}

static bool replies_wait(const struct control_server *server)
{
	for (unsigned i = 0; i < server->client_count; i++)
		if (server->clients[i]->out_used > 0)
			return true;
	return false;
}

static void *serve(void *user)
{
	struct control_server *server = user;

	while (!is_stopping(server))
		turn(server, server->listener, server->job ? PROGRESS_MS : server->client_count ? 1000 : -1);
	server->closing = true;
	while (server->job) {
		vhd_job_cancel(upkeep_job_handle(server->job));
		turn(server, -1, PROGRESS_MS);
	}
	for (int waited = 0; replies_wait(server) && waited < FAREWELL_MS; waited += FAREWELL_MS / 10)
		turn(server, -1, FAREWELL_MS / 10);
	while (server->client_count)
		client_drop(server, server->client_count - 1);
	return NULL;
}

/* --- Beginning and end --- */

/* A process may have several disks open, and an earlier one of the same id may have left something. */
static int listen_as(struct control_server *server)
{
	for (unsigned i = 0; i < 1000; i++) {
		int fd, other;
		pid_t pid;

		snprintf(server->name, sizeof(server->name), "%d-%u.disk", (int)getpid(), i);
		fd = local_socket_listen(server->folder, server->name, CLIENTS_MAX);
		if (fd != -EADDRINUSE)
			return fd;
		other = local_socket_connect(server->folder, server->name, geteuid(), &pid);
		if (other >= 0) {
			close(other);
		} else if (other == -ECONNREFUSED) {
			(void)unlinkat(server->folder, server->name, 0);
			fd = local_socket_listen(server->folder, server->name, CLIENTS_MAX);
			if (fd >= 0)
				return fd;
		}
	}
	return -EADDRINUSE;
}

static int thread_start(struct control_server *server)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&server->thread, NULL, serve, server);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	server->threaded = r == 0;
	return -r;
}

static int socket_open(struct control_server *server, struct err *err)
{
	char path[RUNTIME_FOLDER_PATH_MAX];
	int r;

	if (server->folder < 0)
		server->folder = runtime_folder_make(CONTROL_FOLDER, err);
	if (server->folder < 0)
		return server->folder;
	runtime_folder_sweep(server->folder);
	server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server->wake < 0)
		return err_set(err, -errno, "no eventfd: %s", strerror(errno));
	r = listen_as(server);
	if (r < 0)
		return err_set(err, r, "%s/%s: cannot listen there: %s", runtime_folder_path(server->folder, path), server->name,
		               strerror(-r));
	server->listener = r;
	return 0;
}

int control_server_new(const struct control_server_options *options, struct control_server **ret, struct err *err)
{
	struct control_server *server = calloc(1, sizeof(*server));
	int r = 0;

	if (!server) {
		if (options->folder >= 0)
			close(options->folder);
		return err_set(err, -ENOMEM, "no memory for a control socket");
	}
	server->work = (struct upkeep_work){.operations = options->operations, .vhd = options->vhd, .in_use = true};
	server->writable = options->writable;
	server->folder = options->folder;
	server->listener = server->wake = -1;
	pthread_mutex_init(&server->lock, NULL);
	server->path = strdup(options->path);
	server->program = strdup(options->program);
	if (!server->path || !server->program)
		r = err_set(err, -ENOMEM, "no memory for a control socket");
	if (!r)
		r = socket_open(server, err);
	if (!r) {
		upkeep_layers_read(options->operations, options->vhd, &server->layers);
		r = thread_start(server);
		if (r)
			err_set(err, r, "no thread for the control socket: %s", strerror(-r));
	}
	if (r) {
		control_server_free(server);
		return r;
	}
	*ret = server;
	return 0;
}

static void thread_end(struct control_server *server)
{
	uint64_t one = 1;

	pthread_mutex_lock(&server->lock);
	server->stopping = true;
	pthread_mutex_unlock(&server->lock);
	(void)!write(server->wake, &one, sizeof(one)); /* an eventfd that is full has woken its reader already */
	pthread_join(server->thread, NULL);
}

void control_server_free(struct control_server *server)
{
	if (!server)
		return;
	/* First of all it is not to be found any more. */
	if (server->listener >= 0)
		(void)unlinkat(server->folder, server->name, 0);
	if (server->threaded)
		thread_end(server);
	if (server->listener >= 0)
		close(server->listener);
	if (server->wake >= 0)
		close(server->wake);
	if (server->folder >= 0)
		close(server->folder);
	pthread_mutex_destroy(&server->lock);
	free(server->path);
	free(server->program);
	free(server);
}
