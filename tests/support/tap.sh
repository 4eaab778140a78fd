# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For test scripts: prints TAP and leaves the records that scripts/test counts. See harness.h.

tap_group=${GMEM_TEST_GROUP:-$(basename "$(dirname "$0")")}
tap_results=${GMEM_TEST_RESULTS:-/dev/null}
tap_count=0
tap_failures=0
# The builds and tests that a script starts must not add records of their own.
unset GMEM_TEST_RESULTS GMEM_TEST_GROUP

# tap_record pass|fail|skip NAME [REASON]
tap_record() {
	tap_count=$((tap_count + 1))
	case $1 in
	pass) echo "ok $tap_count - $2" ;;
	skip) echo "ok $tap_count - $2 # SKIP $3" ;;
	fail)
		echo "not ok $tap_count - $2"
		tap_failures=$((tap_failures + 1))
		;;
	esac
	printf '%s\t%s\t%s\t%s\t%s\n' "$tap_group" "$(basename "$0")" "$2" "$1" "${3-}" \
		>>"$tap_results"
}

# The line of a command's output, on standard input, that best says why it failed.
tap_reason() {
	awk '/error:|ERROR:/ && !error { error = $0 } { last = $0 }
		END { print error ? error : last }' | tr '\t' ' '
}

# tap_check NAME COMMAND...: passes if the command succeeds; otherwise shows what it said.
tap_check() {
	tap_name=$1
	shift
	if tap_output=$("$@" 2>&1 </dev/null); then
		tap_record pass "$tap_name"
	else
		tap_record fail "$tap_name" "$(echo "$tap_output" | tap_reason)"
		echo "# $*"
		echo "$tap_output" | tail -n 60 | sed 's/^/# /'
	fi
}

# tap_progress TEXT: for who waits; what this script prints is shown at its end.
tap_progress() {
	echo "    $tap_group: $*" >>"${GMEM_TEST_PROGRESS:-/dev/null}"
}

# Ends the script unless every test so far has passed.
tap_need_all() {
	[ "$tap_failures" -eq 0 ] || tap_end
}

# Ends the script.
tap_end() {
	echo "1..$tap_count"
	[ "$tap_failures" -eq 0 ]
	exit
}

# tap_skip_all REASON: ends a script that cannot run here.
tap_skip_all() {
	tap_record skip "$(basename "$0")" "$1"
	tap_end
}
