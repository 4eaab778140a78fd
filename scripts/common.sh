# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For the other scripts here: what they say, the packages they need, the builds they make.

say() {
	echo "==> $*"
}

# quietly COMMAND...: shows what the command says only if it fails.
quietly() {
	quietly_log=$(mktemp)
	quietly_status=0
	"$@" >"$quietly_log" 2>&1 </dev/null || quietly_status=$?
	if [ "$quietly_status" -ne 0 ]; then
		cat "$quietly_log"
		echo "status $quietly_status of: $*"
	fi >&2
	rm -f "$quietly_log"
	return "$quietly_status"
}

# Prints the command to become root with, nothing for root; fails where there is no way.
find_root() {
	if [ "$(id -u)" -eq 0 ]; then
		return
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		echo sudo -n
	elif command -v sudo >/dev/null && [ -t 0 ]; then
		echo sudo
	else
		return 1
	fi
}

missing_packages() {
	for package; do
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null |
			grep -qx installed || printf ' %s' "$package"
	done
}

# apt_install PACKAGE...
apt_install() {
	if ! root=$(find_root); then
		echo 'This user is not root and cannot become root with sudo.'
		return 1
	fi
	# The lists at hand may do where they cannot be renewed.
	# shellcheck disable=SC2086 # a command and its options
	quietly $root apt-get update || true
	# shellcheck disable=SC2086
	quietly $root env DEBIAN_FRONTEND=noninteractive \
		apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"
}

# need_packages PURPOSE PACKAGE...: installs those that are missing, or ends the script.
need_packages() {
	purpose=$1
	shift
	if ! command -v dpkg-query >/dev/null; then
		say "not a Debian system: hoping that it has the like of these packages: $*"
		return
	fi
	missing=$(missing_packages "$@")
	[ -n "$missing" ] || return 0
	say "installing packages to $purpose:$missing"
	# shellcheck disable=SC2086 # a list
	if ! apt_install $missing; then
		echo "These packages are missing and could not be installed:$missing"
		echo 'Install them as root, then start again:'
		echo "    apt-get update && apt-get install -y --no-install-recommends$missing"
		exit 1
	fi >&2
}

# build FOLDER MESON-OPTION...: configures it the first time, and brings it up to date.
build() {
	folder=$1
	shift
	[ -e "$folder/build.ninja" ] || quietly meson setup "$folder" "$@" || return
	quietly ninja -C "$folder"
}
