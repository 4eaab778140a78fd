/* SPDX-License-Identifier: MIT */
#include "twin.h"

#include "kernel.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum command_kind {
	COMMAND_STEP,
	COMMAND_UNDO,
	COMMAND_ALIAS,
	COMMAND_KEEP,
	COMMAND_PROBE
};

struct command {
	enum command_kind kind;
	uint8_t vm, place, same;
	uint32_t as_id, id;
	struct step step;
	unsigned int count;
	struct probe probes[PROBE_MAX];
};

struct reply {
	struct answer answer;
	struct answer_look look;
	int probes[PROBE_MAX];
};

static int channel = -1;
static pid_t process;
static struct command command;
static struct reply reply;

/* Most commands are without probes. */
static size_t command_size(enum command_kind kind)
{
	return kind == COMMAND_PROBE ? sizeof(command) : offsetof(struct command, probes);
}

static size_t reply_size(enum command_kind kind)
{
	return kind == COMMAND_PROBE ? sizeof(reply) : offsetof(struct reply, probes);
}

static void carry_out(void)
{
	switch (command.kind) {
	case COMMAND_STEP:
		if (command.step.op != STEP_RENEW)
			kernel_look(&command.step.look, &reply.look);
		kernel_step(&command.step, &reply.answer);
		break;
	case COMMAND_UNDO:
		kernel_undo();
		break;
	case COMMAND_ALIAS:
		kernel_slots[command.place] = kernel_slots[command.same];
		kernel_slots[command.place]->references++;
		break;
	case COMMAND_KEEP:
		kernel_vms[command.vm].kept[command.as_id][command.id] = true;
		break;
	case COMMAND_PROBE:
		for (unsigned int i = 0; i < command.count; i++) {
			const struct probe *probe = &command.probes[i];
			const struct kernel_file *file = kernel_files[probe->memfd % STEP_MEMFDS];

			reply.probes[i] =
				probe_ask(kernel_vms[probe->vm].fd, file ? file->fd : -1, probe);
		}
		break;
	}
}

_Noreturn static void run(void)
{
	ssize_t got;

	while ((got = recv(channel, &command, sizeof(command), 0)) > 0) {
		carry_out();
		if (command.kind != COMMAND_STEP && command.kind != COMMAND_PROBE)
			continue;
		if (send(channel, &reply, reply_size(command.kind), MSG_NOSIGNAL) < 0)
			break;
	}
	kernel_close_all();
	_exit(got == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

void twin_start(void)
{
	int pair[2];

	kernel_must(raw_result(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)),
		    "socketpair");
	process = fork();
	kernel_must(raw_result(process), "fork");
	channel = pair[process == 0];
	close(pair[process != 0]);
	if (process == 0)
		run();
}

bool twin_stop(void)
{
	int status;

	close(channel);
	return waitpid(process, &status, 0) == process && status == 0;
}

static void tell(enum command_kind kind)
{
	command.kind = kind;
	if (send(channel, &command, command_size(kind), MSG_NOSIGNAL) < 0) {
		fprintf(stderr, "the twin has ended\n");
		exit(EXIT_FAILURE);
	}
}

static void hear(void)
{
	if (recv(channel, &reply, sizeof(reply), 0) <= 0) {
		fprintf(stderr, "the twin has ended\n");
		exit(EXIT_FAILURE);
	}
}

void twin_begin(const struct step *step)
{
	command.step = *step;
	tell(COMMAND_STEP);
}

void twin_end(struct answer *answer, struct answer_look *look)
{
	hear();
	*answer = reply.answer;
	*look = reply.look;
}

void twin_undo(void)
{
	tell(COMMAND_UNDO);
}

void twin_alias(uint8_t place, uint8_t same)
{
	command.place = place;
	command.same = same;
	tell(COMMAND_ALIAS);
}

void twin_keep(uint8_t vm, uint32_t as_id, uint32_t id)
{
	command.vm = vm;
	command.as_id = as_id;
	command.id = id;
	tell(COMMAND_KEEP);
}

void twin_begin_probes(const struct probe *probes, unsigned int count)
{
	memcpy(command.probes, probes, count * sizeof(*probes));
	command.count = count;
	tell(COMMAND_PROBE);
}

void twin_end_probes(int *results, unsigned int count)
{
	hear();
	memcpy(results, reply.probes, count * sizeof(*results));
}
