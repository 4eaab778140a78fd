/* SPDX-License-Identifier: MIT */
#include "ranges.h"

#include <stdlib.h>
#include <string.h>

/* The first range that ends at `number` or behind. */
static size_t first_behind(const struct gmem_fake_ranges *ranges, uint64_t number)
{
	size_t low = 0, high = ranges->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ranges->at[middle].end < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool gmem_fake_ranges_find(const struct gmem_fake_ranges *ranges, uint64_t number, uint64_t *until)
{
	size_t i = first_behind(ranges, number);
	uint64_t change;
	bool in;

	if (i < ranges->count && ranges->at[i].end == number)
		i++;
	in = i < ranges->count && ranges->at[i].start <= number;
	change = i == ranges->count ? UINT64_MAX : in ? ranges->at[i].end : ranges->at[i].start;
	if (until)
		*until = change;
	return in;
}

static bool splice(struct gmem_fake_ranges *ranges, size_t first, size_t last,
		   const struct gmem_fake_range *pieces, size_t count)
{
	size_t total = ranges->count - (last - first) + count;

	if (total > ranges->room) {
		size_t room = total * 2;
		void *larger = realloc(ranges->at, room * sizeof(*ranges->at));

		if (!larger)
			return false;
		ranges->at = larger;
		ranges->room = room;
	}
	if (total == 0) { /* there may be no memory at all */
		ranges->count = 0;
		return true;
	}
	memmove(ranges->at + first + count, ranges->at + last,
		(ranges->count - last) * sizeof(*ranges->at));
	memcpy(ranges->at + first, pieces, count * sizeof(*pieces));
	ranges->count = total;
	return true;
}

bool gmem_fake_ranges_set(struct gmem_fake_ranges *ranges, uint64_t start, uint64_t end, bool in)
{
	size_t first = first_behind(ranges, start), last = first, count = 0;
	struct gmem_fake_range pieces[2] = {{start, end}, {0, 0}};
	uint64_t left = start, right = end; /* of all ranges that touch this one */

	while (last < ranges->count && ranges->at[last].start <= end)
		last++;
	if (last > first) {
		left = ranges->at[first].start < start ? ranges->at[first].start : start;
		right = ranges->at[last - 1].end > end ? ranges->at[last - 1].end : end;
	}
	if (in) {
		pieces[count++] = (struct gmem_fake_range){left, right};
	} else {
		if (left < start)
			pieces[count++] = (struct gmem_fake_range){left, start};
		if (right > end)
			pieces[count++] = (struct gmem_fake_range){end, right};
	}
	return splice(ranges, first, last, pieces, count);
}

void gmem_fake_ranges_clear(struct gmem_fake_ranges *ranges)
{
	free(ranges->at);
	*ranges = (struct gmem_fake_ranges){0};
}
