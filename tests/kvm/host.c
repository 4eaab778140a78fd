/* SPDX-License-Identifier: MIT */
#include "host.h"

#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLICY_LOCAL	4
#define POLICY_OF_ADDR	2UL
#define LINE_SIZE	512
#define PAGES_AT_A_TIME 1024
#define NR_CACHESTAT	451 /* Linux 6.5; the same on all architectures */

int host_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = -3; /* ".", ".." and the one that reads them */

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static FILE *open_proc(const char *path)
{
	FILE *file = fopen(path, "re");

	ck_assert_ptr_nonnull(file);
	return file;
}

int host_count_maps(const char *text)
{
	FILE *file = open_proc("/proc/self/maps");
	char line[LINE_SIZE];
	int count = 0;

	while (fgets(line, sizeof(line), file))
		count += strstr(line, text) != NULL;
	fclose(file);
	return count;
}

int host_count_wiped(void)
{
	FILE *file = open_proc("/proc/self/smaps");
	char line[LINE_SIZE];
	int count = 0;

	while (fgets(line, sizeof(line), file))
		count += strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " wf") != NULL;
	fclose(file);
	return count;
}

int64_t host_count_swapped(const void *addr, size_t size)
{
	uintptr_t from = (uintptr_t)addr, start, end;
	FILE *file = open_proc("/proc/self/smaps");
	char line[LINE_SIZE];
	bool within = false;
	int64_t sum = 0;
	long long kib;

	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
			within = start < from + size && from < end;
		else if (within && sscanf(line, "Swap: %lld kB", &kib) == 1)
			sum += kib * 1024;
	}
	fclose(file);
	return sum;
}

const char *host_perms(const void *addr)
{
	static char perms[5];
	FILE *file = open_proc("/proc/self/maps");
	char line[LINE_SIZE];
	uintptr_t start, end;
	bool found = false;

	while (!found && fgets(line, sizeof(line), file))
		found = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &start, &end, perms) == 3 &&
			start <= (uintptr_t)addr && (uintptr_t)addr < end;
	fclose(file);
	return found ? perms : "";
}

size_t host_count_resident(const void *addr, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char there[PAGES_AT_A_TIME];
	size_t count = 0;

	for (size_t done = 0; done < size;) {
		size_t part =
			size - done < page * sizeof(there) ? size - done : page * sizeof(there);
		void *from = (void *)((uintptr_t)addr + done);

		ck_assert_int_eq(mincore(from, part, there), 0);
		for (size_t i = 0; i < part / page; i++)
			count += there[i] & 1;
		done += part;
	}
	return count;
}

int64_t host_count_cached(int fd)
{
	struct {
		uint64_t offset, size; /* 0, 0: to the end */
	} range = {0, 0};
	struct {
		uint64_t cached, dirty, writeback, evicted, recently_evicted;
	} status;

	if (syscall(NR_CACHESTAT, fd, &range, &status, 0U) < 0)
		return -1;
	return (int64_t)status.cached;
}

bool host_can_count_cached(void)
{
	int fd = memfd_create("empty", MFD_CLOEXEC);
	bool can = host_count_cached(fd) == 0;

	close(fd);
	return can;
}

int host_get_policy(const void *addr)
{
	int mode = -1;

	if (syscall(SYS_get_mempolicy, &mode, NULL, 0UL, addr, POLICY_OF_ADDR) < 0)
		return -errno;
	return mode;
}

int host_set_policy_local(void *addr, size_t size)
{
	return syscall(SYS_mbind, addr, size, POLICY_LOCAL, NULL, 0UL, 0U) < 0 ? -errno : 0;
}

int host_policy_holds(int memfd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *one = mmap(NULL, page, PROT_READ, MAP_SHARED, memfd, 0);
	void *two = mmap(NULL, page, PROT_READ, MAP_SHARED, memfd, 0);
	int r;

	ck_assert_ptr_ne(one, MAP_FAILED);
	ck_assert_ptr_ne(two, MAP_FAILED);
	r = host_set_policy_local(one, page);
	if (r == 0)
		r = host_get_policy(two);
	munmap(one, page);
	munmap(two, page);
	return r < 0 ? r : r == POLICY_LOCAL;
}

struct touch {
	volatile unsigned char *addr;
	bool write;
};

static int touch(void *data)
{
	struct touch *how = data;

	harness_let_faults_kill();
	if (how->write)
		*how->addr = 1;
	else
		(void)*how->addr;
	return 0;
}

int host_touch(void *addr, bool write)
{
	return -host_run_child(touch, &(struct touch){.addr = addr, .write = write});
}

int host_run_child(int (*function)(void *data), void *data)
{
	int *line = mmap(NULL, sizeof(*line), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			 -1, 0);
	int status, result;
	pid_t pid;

	ck_assert_ptr_ne(line, MAP_FAILED);
	*line = -SIGABRT; /* a child that ends in the middle of the function */
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		*line = function(data);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	result = WIFSIGNALED(status) ? -WTERMSIG(status) : *line;
	munmap(line, sizeof(*line));
	return result;
}

void host_forbid_ioctl(unsigned long request)
{
	const uint32_t number = offsetof(struct seccomp_data, nr);
	/* The half with the low bits, where the whole of a request is. */
	const uint32_t argument = offsetof(struct seccomp_data, args[1]);
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)request, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq((int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				      SECCOMP_FILTER_FLAG_TSYNC, &program),
			 0);
}

static void ignore(int signal)
{
	(void)signal;
}

/* Lets SIGNAL interrupt calls, and do nothing else. */
static void interrupt_with(int signal)
{
	struct sigaction action = {.sa_handler = ignore}; /* and so without SA_RESTART */

	ck_assert_int_eq(sigaction(signal, &action, NULL), 0);
}

static struct itimerval each(unsigned int microseconds)
{
	const struct timeval period = {.tv_usec = (suseconds_t)microseconds};

	return (struct itimerval){.it_interval = period, .it_value = period};
}

/* The type of a clock of setitimer() has no portable name, so no parameter here is one. */

void host_pester(unsigned int microseconds)
{
	const struct itimerval timer = each(microseconds);

	interrupt_with(SIGALRM);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &timer, NULL), 0);
}

void host_pester_busy(unsigned int microseconds)
{
	const struct itimerval timer = each(microseconds);

	interrupt_with(SIGPROF);
	ck_assert_int_eq(setitimer(ITIMER_PROF, &timer, NULL), 0);
}
