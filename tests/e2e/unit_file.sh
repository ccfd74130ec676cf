#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The unit is well-formed and sealed: systemd-analyze verify says nothing, and its exposure is at most 1.3 (with the GPU
# drop-in, that leaves the devices to their file modes, at most 1.6). Skipped where there is no systemd-analyze that can judge a file offline.
set -u
systemd-analyze security --help 2>/dev/null | grep -q -- --offline || exit 77
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
fail() {
	echo "FAIL: $*"
	failed=1
}

# The programs that the unit names, where it names them.
mkdir -p "$work/system/sakiorid.service.d" "$work/gpu"
unit=$work/system/sakiorid.service
sed "s|^ExecStart=[^ ]*|ExecStart=/bin/true|" "${BUILDDIR:?}/systemd/sakiorid.service" >"$unit"
grep -q '@[a-z]*dir@' "$unit" && fail 'a path is not filled in'
grep -q '^ExecStart=/' "$unit" || fail 'ExecStart is not absolute'

said=$(systemd-analyze verify --man=no "$unit" 2>&1) || fail "verify ends with an error"
[ -z "$said" ] || fail "verify says: $said"

# exposure FILE TENTHS
exposure() {
	systemd-analyze security --offline=true --no-pager --threshold="$2" "$1" >"$work/security" 2>&1 || fail "exposure above $2 tenths"
	grep Overall "$work/security" || fail "no judgement: $(cat "$work/security")"
}
exposure "$unit" 13

# The drop-in only opens: behind the unit in one file it means the same.
cp "$unit" "$work/gpu/sakiorid.service"
sed '/^\[Unit\]/,/^$/d' "${SRCDIR:?}/systemd/sakiorid-gpu.conf" >>"$work/gpu/sakiorid.service"
sed -i '/^\[Install\]/d; /^WantedBy=/d' "$work/gpu/sakiorid.service"
said=$(systemd-analyze verify --man=no "$work/gpu/sakiorid.service" 2>&1)
[ -z "$said" ] || fail "verify of the GPU drop-in says: $said"
exposure "$work/gpu/sakiorid.service" 16

# sysusers and tmpfiles are understood, in a root of their own.
if command -v systemd-sysusers >/dev/null && command -v systemd-tmpfiles >/dev/null; then
	mkdir -p "$work/root/etc/sakiori"
	touch "$work/root/etc/sakiori/identity.key"
	said=$(systemd-sysusers --root="$work/root" "$SRCDIR/systemd/sysusers.d/sakiori.conf" 2>&1) || fail "sysusers: $said"
	grep -q '^sakiori:' "$work/root/etc/passwd" || fail 'sysusers makes no user sakiori'
	grep -q '^sakiori-admin:' "$work/root/etc/group" || fail 'sysusers makes no group sakiori-admin'
	if [ "$(id -u)" = 0 ]; then
		said=$(systemd-tmpfiles --create --root="$work/root" "$SRCDIR/systemd/tmpfiles.d/sakiori.conf" 2>&1) || fail "tmpfiles: $said"
		[ "$(stat -c %a "$work/root/etc/sakiori/identity.key")" = 600 ] || fail "the key is not private: $said"
	fi
fi
exit $failed
