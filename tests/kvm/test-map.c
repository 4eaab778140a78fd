/* SPDX-License-Identifier: MIT */
/* gmem_map on a real KVM. */
#include "fixture.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGES 8
#define MIB   (UINT64_C(1) << 20)

START_TEST(create_maps_the_file_whole)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	char *addr, *raw;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	map = world_map(memfd);
	addr = gmem_map_get_addr(map);
	ck_assert_uint_eq(gmem_map_get_size(map), PAGES * world.page);
	ck_assert_uint_eq(gmem_map_get_offset(map), 0);
	ck_assert_str_eq(host_perms(addr), "rw-s");
	ck_assert_str_eq(host_perms(addr + PAGES * world.page - 1), "rw-s");
	ck_assert_int_eq(traces_get().files, world.before.files + 1);
	ck_assert_uint_eq(host_count_resident(addr, PAGES * world.page), 0);
	raw = raw_map(gmem_memfd_get_fd(memfd), 0, PAGES * world.page);
	addr[3 * world.page + 5] = 9;
	ck_assert_int_eq(raw[3 * world.page + 5], 9);
	munmap(raw, PAGES * world.page);
	gmem_map_close(map);
	ck_assert_str_eq(host_perms(addr), "");
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(create_maps_a_part)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	char *addr, *raw;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	raw = raw_map(gmem_memfd_get_fd(memfd), 0, PAGES * world.page);
	assert_ok(gmem_map_create(memfd, MAP(.offset = 3 * world.page, .size = 2 * world.page),
				  &map));
	addr = gmem_map_get_addr(map);
	ck_assert_uint_eq(gmem_map_get_offset(map), 3 * world.page);
	ck_assert_uint_eq(gmem_map_get_size(map), 2 * world.page);
	raw[3 * world.page] = 1;
	raw[5 * world.page - 1] = 2;
	ck_assert_int_eq(addr[0], 1);
	ck_assert_int_eq(addr[2 * world.page - 1], 2);
	munmap(raw, PAGES * world.page);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* In pages. */
static const struct {
	uint64_t offset, size;
	int error;
	enum gmem_reason reason;
} bad_ranges[] = {
	{0, 0, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{PAGES, 1, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{0, PAGES + 1, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{PAGES - 1, 2, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{-UINT64_C(1), 2, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
};
#define BAD_RANGES (int)(sizeof(bad_ranges) / sizeof(bad_ranges[0]))

START_TEST(create_maps_nothing_past_the_end)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct traces before;
	struct world world;
	int r;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	before = traces_get();
	r = gmem_map_create(memfd,
			    MAP(.offset = bad_ranges[_i].offset * world.page,
				.size = bad_ranges[_i].size * world.page),
			    &map);
	ck_assert_int_eq(r, -bad_ranges[_i].error);
	ck_assert_int_eq(gmem_error_get_reason(), bad_ranges[_i].reason);
	ck_assert_ptr_null(map);
	traces_assert_same(&before);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(create_says_why_it_cannot)
{
	struct gmem_memfd *memfd, *huge;
	struct gmem_map *map;
	struct world world;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	assert_fails(gmem_map_create(memfd, MAP(.offset = 1, .size = world.page), &map), EINVAL,
		     RANGE_UNALIGNED);
	assert_fails(gmem_map_create(memfd, MAP(.size = 1), &map), EINVAL, RANGE_UNALIGNED);
	assert_fails(gmem_map_create(memfd, MAP(.size = world.page, .prot = 4), &map), EINVAL,
		     FLAGS_UNKNOWN);
	assert_fails(gmem_map_create(memfd, MAP(.size = world.page, .pad = 1), &map), EINVAL,
		     CONFLICT);
	/* It can be made, and there are no addresses for it. */
	huge = world_memfd(&world, (UINT64_C(1) << 62) / world.page);
	assert_fails(gmem_map_create(huge, NULL, &map), ENOMEM, NO_MEMORY);
	ck_assert_int_eq(traces_get().files, world.before.files);
	gmem_memfd_close(huge);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(create_takes_the_flag_for_mapping)
{
	struct gmem_memfd *closed;
	struct gmem_map *map;
	struct world world;

	if (!world_open_guest_memfd(&world))
		return;
	assert_ok(gmem_memfd_create(world.vm, MEMFD(.size = world.page), &closed));
	assert_fails(gmem_map_create(closed, NULL, &map), ENODEV, MEMFD_NOT_MAPPABLE);
	ck_assert_int_eq(traces_get().files, world.before.files);
	gmem_memfd_close(closed);
	world_close(&world);
}
END_TEST

START_TEST(read_only_mapping_takes_no_write)
{
	char byte = 1;
	struct iovec local = {&byte, 1}, remote = {NULL, 1};
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	assert_ok(gmem_map_create(memfd, MAP(.size = world.page, .prot = GMEM_PROT_READ), &map));
	remote.iov_base = gmem_map_get_addr(map);
	ck_assert_str_eq(host_perms(remote.iov_base), "r--s");
	ck_assert_int_eq((int)process_vm_writev(getpid(), &local, 1, &remote, 1, 0), -1);
	ck_assert_int_eq(errno, EFAULT);
	ck_assert_int_eq((int)process_vm_readv(getpid(), &local, 1, &remote, 1, 0), 1);
	ck_assert_int_eq(byte, 0);
	/* Populating it is reading. */
	assert_ok(gmem_map_populate(map, 0, world.page, 1));
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(child_does_not_inherit_the_mapping)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	void *addr;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	map = world_map(memfd);
	addr = gmem_map_get_addr(map);
	ck_assert_int_eq(host_touch(addr, false), SIGSEGV);
	ck_assert_int_eq(host_touch(addr, true), SIGSEGV);
	*(char *)addr = 1;
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- Population ---- */

static const unsigned int thread_counts[] = {1, 2, 4, 0, 256};

/* More than two parts of the work, the last of another size. */
START_TEST(populate_fills_every_page)
{
	const uint64_t size = 68 * MIB;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, size / world.page);
	map = world_map(memfd);
	assert_ok(gmem_map_populate(map, 0, size, thread_counts[_i]));
	ck_assert_uint_eq(host_count_resident(gmem_map_get_addr(map), size), size / world.page);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(populate_goes_on_after_signals)
{
	const uint64_t size = 36 * MIB;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, size / world.page);
	map = world_map(memfd);
	host_pester(2000);
	assert_ok(gmem_map_populate(map, 0, size, 2));
	host_pester(0);
	ck_assert_uint_eq(host_count_resident(gmem_map_get_addr(map), size), size / world.page);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

static _Atomic pid_t populating; /* the thread that called */
static _Atomic bool stray;

static void see_who(int signal)
{
	(void)signal;
	if (gettid() != atomic_load(&populating))
		atomic_store(&stray, true);
}

static void *populate_all(void *data)
{
	struct gmem_map *map = data;
	sigset_t none;

	sigemptyset(&none);
	atomic_store(&populating, gettid());
	pthread_sigmask(SIG_SETMASK, &none, NULL);
	assert_ok(gmem_map_populate(map, 0, gmem_map_get_size(map), 4));
	return NULL;
}

/* With the main thread's signals blocked the kernel picks among the others. */
START_TEST(other_threads_take_no_signals)
{
	const uint64_t size = 132 * MIB;
	struct sigaction action = {.sa_handler = see_who};
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	pthread_t thread;
	sigset_t all;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, size / world.page);
	map = world_map(memfd);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	host_pester(500);
	ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, populate_all, map), 0);
	pthread_join(thread, NULL);
	ck_assert(!atomic_load(&stray));
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* Offsets are the file's also where the mapping begins further on. */
START_TEST(populate_fills_just_its_range)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	char *raw;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	raw = raw_map(gmem_memfd_get_fd(memfd), 0, PAGES * world.page);
	assert_ok(gmem_map_create(memfd, MAP(.offset = 2 * world.page, .size = 5 * world.page),
				  &map));
	assert_ok(gmem_map_populate(map, 3 * world.page, 2 * world.page, 1));
	ck_assert_uint_eq(host_count_resident(raw, 3 * world.page), 0);
	ck_assert_uint_eq(host_count_resident(raw + 3 * world.page, 2 * world.page), 2);
	ck_assert_uint_eq(host_count_resident(raw + 5 * world.page, 3 * world.page), 0);

	assert_fails(gmem_map_populate(map, world.page, world.page, 1), ERANGE, MAP_BEYOND_END);
	assert_fails(gmem_map_populate(map, 6 * world.page, 2 * world.page, 1), ERANGE,
		     MAP_BEYOND_END);
	assert_fails(gmem_map_populate(map, 2 * world.page, 0, 1), EINVAL, RANGE_EMPTY);
	assert_fails(gmem_map_populate(map, 2 * world.page + 1, world.page, 1), EINVAL,
		     RANGE_UNALIGNED);
	assert_fails(gmem_map_populate(map, -(uint64_t)world.page, 2 * world.page, 1), EOVERFLOW,
		     RANGE_WRAPS);
	assert_fails(gmem_map_populate(map, 2 * world.page, world.page, 257), EINVAL, ARGUMENT);
	ck_assert_uint_eq(host_count_resident(raw, PAGES * world.page), 2);
	munmap(raw, PAGES * world.page);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(populate_keeps_what_is_written)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	char *addr;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, PAGES);
	map = world_map(memfd);
	addr = gmem_map_get_addr(map);
	memset(addr, 3, PAGES * world.page);
	assert_ok(gmem_map_populate(map, 0, PAGES * world.page, 2));
	for (size_t i = 0; i < PAGES * world.page; i++)
		ck_assert_int_eq(addr[i], 3);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(populate_cannot_fill_private_memory)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;

	if (!world_open_guest_memfd(&world))
		return;
	assert_ok(gmem_memfd_create(world.vm, MEMFD(.size = world.page, .flags = GMEM_MEMFD_MMAP),
				    &memfd));
	map = world_map(memfd);
	assert_fails(gmem_map_populate(map, 0, world.page, 1), EFAULT, MEMFD_PRIVATE);
	ck_assert_int_eq((int)host_count_resident(gmem_map_get_addr(map), world.page), 0);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("map");
	TCase *creation = tcase_create("creation");
	TCase *population = tcase_create("population");

	suite_add_tcase(suite, creation);
	tcase_add_test(creation, create_maps_the_file_whole);
	tcase_add_test(creation, create_maps_a_part);
	tcase_add_loop_test(creation, create_maps_nothing_past_the_end, 0, BAD_RANGES);
	tcase_add_test(creation, create_says_why_it_cannot);
	tcase_add_test(creation, create_takes_the_flag_for_mapping);
	tcase_add_test(creation, read_only_mapping_takes_no_write);
	tcase_add_test(creation, child_does_not_inherit_the_mapping);
	suite_add_tcase(suite, population);
	tcase_add_loop_test(population, populate_fills_every_page, 0, 5);
	tcase_add_test(population, populate_goes_on_after_signals);
	tcase_add_test(population, other_threads_take_no_signals);
	tcase_add_test(population, populate_fills_just_its_range);
	tcase_add_test(population, populate_keeps_what_is_written);
	tcase_add_test(population, populate_cannot_fill_private_memory);
	return harness_run(suite);
}
