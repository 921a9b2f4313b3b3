/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/local-socket.h"
#include "common/runtime-folder.h"
#include "vhd/control-client.h"
#include "vhd/control-message.h"
#include "vhd/control-server.h"
#include "vhd/control-talk.h"

struct search {
	struct upkeep_file file;
	struct control_owner *found;
	unsigned count;
};

/* Where the file is in "dev:ino,dev:ino,...". */
static bool files_hold(const char *files, struct upkeep_file file, unsigned *layer, unsigned *count)
{
	bool found = false;

	for (*count = 0; *files; ++*count) {
		struct upkeep_file other;

		if (control_file_read(&files, &other) || (*files && *files++ != ','))
			return false;
		if (!found && upkeep_file_same(other, file)) {
			found = true;
			*layer = *count;
		}
	}
	return found;
}

static bool answer_take(struct control_line *line, struct search *search, struct control_owner *owner)
{
	const char *program = control_line_get(line, "program"), *path = control_line_get(line, "path"),
	           *files = control_line_get(line, "files");
	uint64_t version;

	if (strcmp(line->verb, "result") != 0 || control_line_number(line, "version", &version) ||
	    version != CONTROL_VERSION || !program || !path || !files ||
	    control_line_flag(line, "writable", &owner->writable))
		return false;
	snprintf(owner->program, sizeof(owner->program), "%s", program);
	snprintf(owner->path, sizeof(owner->path), "%s", path);
	return files_hold(files, search->file, &owner->layer, &owner->layer_count);
}

static bool process_has_open(pid_t pid, struct upkeep_file file)
{
	struct dirent *entry;
	bool found = false;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		struct stat st;

		found = fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 &&
		        upkeep_file_same((struct upkeep_file){st.st_dev, st.st_ino}, file);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void ask(int folder, const char *name, uid_t uid, struct search *search)
{
	static const char hello[] = "hello\n";
	struct control_owner *owner = &search->found[search->count];
	struct control_line line;
	struct talk talk;

	memset(owner, 0, sizeof(*owner));
	owner->uid = uid;
	owner->socket = local_socket_connect(folder, name, uid, &owner->pid);
	if (owner->socket < 0)
		return;
	/* Root does not take another user's word for it, nor waits for an answer of who cannot be meant. */
	if (uid != geteuid() && !process_has_open(owner->pid, search->file)) {
		close(owner->socket);
		return;
	}
	talk_begin(&talk, owner->socket);
	if (talk_send(owner->socket, hello, strlen(hello)) == 0 && talk_line(&talk, TALK_PATIENCE_MS, &line) == 0 &&
	    answer_take(&line, search, owner))
		search->count++;
	else
		close(owner->socket);
	talk_end(&talk);
}

/* Takes the descriptor over. */
static void folder_search(int folder, uid_t uid, struct search *search)
{
	DIR *dir = fdopendir(folder);
	struct dirent *entry;

	if (!dir) {
		close(folder);
		return;
	}
	while (search->count < CONTROL_OWNERS_MAX && (entry = readdir(dir))) {
		size_t length = strlen(entry->d_name);

		if (length > 5 && strcmp(entry->d_name + length - 5, ".disk") == 0)
			ask(folder, entry->d_name, uid, search);
	}
	closedir(dir);
}

static void user_search(uid_t uid, struct search *search)
{
	for (unsigned choice = 0; choice < RUNTIME_FOLDER_CHOICES; choice++) {
		int folder = runtime_folder_open(CONTROL_FOLDER, uid, choice);

		if (folder >= 0)
			folder_search(folder, uid, search);
	}
}

/* A number that ends the name; false: there is none, or it is this process's own user. */
static bool other_uid(const char *name, uid_t *ret)
{
	char *end;
	unsigned long uid = strtoul(name, &end, 10);

	*ret = (uid_t)uid;
	return name[0] >= '0' && name[0] <= '9' && !*end && uid == *ret && *ret != geteuid();
}

/*
 * Root looks at everybody's: one folder a user in /run/user, and those of users that have none there in /tmp. Each is
 * looked into by its own choice of place, so that none is asked twice.
 */
static void others_search(struct search *search)
{
	static const struct {
		const char *folder, *prefix;
		unsigned choice;
	} places[] = {{"/run/user", "", 1}, {"/tmp", CONTROL_FOLDER "-", 2}};

	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		DIR *dir = opendir(places[i].folder);
		struct dirent *entry;

		while (dir && search->count < CONTROL_OWNERS_MAX && (entry = readdir(dir))) {
			size_t skip = strlen(places[i].prefix);
			uid_t uid;
			int folder;

			if (strncmp(entry->d_name, places[i].prefix, skip) != 0 || !other_uid(entry->d_name + skip, &uid))
				continue;
			folder = runtime_folder_open(CONTROL_FOLDER, uid, places[i].choice);
			if (folder >= 0)
				folder_search(folder, uid, search);
		}
		if (dir)
			closedir(dir);
	}
}

/* A user's XDG_RUNTIME_DIR is /run/user/UID as a rule: the same process is then met twice. */
static void doubles_drop(struct search *search)
{
	for (unsigned i = 1; i < search->count; i++) {
		for (unsigned j = 0; j < i; j++) {
			const struct control_owner *a = &search->found[i], *b = &search->found[j];

			if (a->pid == b->pid && strcmp(a->path, b->path) == 0) {
				close(a->socket);
				search->found[i--] = search->found[--search->count];
				break;
			}
		}
	}
}

int control_find(struct upkeep_file file, int folder, struct control_owner *ret)
{
	struct search search = {.file = file, .found = ret};

	if (!file.ino)
		return 0;
	if (folder >= 0) {
		int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (copy < 0)
			return -errno;
		folder_search(copy, geteuid(), &search);
		return (int)search.count;
	}
	user_search(geteuid(), &search);
	if (geteuid() == 0)
		others_search(&search);
	doubles_drop(&search);
	return (int)search.count;
}
