# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For suites that are other suites once more, in another build or under a tool. After tap.sh.

# Passes on what meson says; a program that has ended is progress.
again_watch() {
	while IFS= read -r again_line; do
		echo "$again_line"
		case $again_line in
		*/*' libgmem:'*) tap_progress "${again_line#* libgmem:}" ;;
		esac
	done
}

# again FOLDER MESON-TEST-OPTION...: runs tests of a build; each becomes one of this script.
again() {
	again_folder=$1
	shift
	again_records=$(mktemp)
	again_output=$({
		again_status=0
		GMEM_TEST_RESULTS="$again_records" meson test -C "$again_folder" --no-rebuild \
			--print-errorlogs "$@" 2>&1 </dev/null || again_status=$?
		echo "$again_status"
	} | again_watch)
	again_status=${again_output##*[!0-9]}
	# shellcheck disable=SC2154 # of tap.sh
	again_failures=$tap_failures
	while IFS='	' read -r _ program name verdict reason; do
		[ "$verdict" = note ] || tap_record "$verdict" "$program:$name" "$reason"
	done <"$again_records"
	rm -f "$again_records"
	[ "$again_status" -ne 0 ] || return 0
	# A tool also reports at the end of a program, when each test has passed.
	[ "$tap_failures" -ne "$again_failures" ] ||
		tap_record fail "$again_folder" "meson test ended with status $again_status"
	echo "$again_output" | tail -n 200 | sed 's/^/# /'
}
