#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# make install lays down everything: install.sh BUILDDIR
set -eu
build=${1:-${BUILDDIR:?}}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
make -s -C "$build" install DESTDIR="$root" >"$root/install.out" 2>&1 || { tail -20 "$root/install.out"; exit 1; }
missing=0
for pattern in '*/sbin/sakiorid' '*/bin/sakiori' '*/sakiorid.service' '*sysusers.d/sakiori*.conf' '*tmpfiles.d/sakiori*.conf' '*/sakiorid.conf' \
	'*/man8/sakiorid.8' '*/man1/sakiori.1' '*/man5/sakiorid.conf.5'; do
	found=$(find "$root" -path "$pattern" | head -1)
	[ -n "$found" ] && echo "${found#"$root"}" || { echo "not installed: $pattern"; missing=1; }
done
exit $missing
